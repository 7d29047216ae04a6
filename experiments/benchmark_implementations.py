"""How fast is each implementation, and does `auto` take the right one, on networks of each kind?

Full kernels of x1 with itself in float32, of 10-layer ReLU networks of width 2^k (the grid of
figure 1 of the paper), CNNs, ResNet-18 and vision transformers with N inputs and O outputs:
milliseconds, operations that XLA counts for a kernel entry (a loop's body once), temporary memory
with the result, and seconds to compile, of our implementations, of `auto`, compiled once more on
its own, and, where it is installed, of neural-tangents 0.6.5 in the same process. Runs are
interleaved, round by round; a round repeats a kernel for 50 ms or more, what takes under 0.1 s has
four times as many rounds, what takes under 5 ms is compiled three times over, for two compilations
of one program differ by up to a tenth, and the fastest round of each is kept. Jacobians over 2 GB
are left out; what takes over 20 seconds is run once.

    python -m experiments.benchmark_implementations --save            # 35 minutes on 2 cores
    python -m experiments.benchmark_implementations --save --only resnet
    python -m experiments.benchmark_implementations --only fcn --rounds 2   # a quick look

Families: fcn (11 minutes), cnn (6), resnet (10), vit (8), form (5): other uses of a weight than
`x @ w`, foreign (1): layers as other libraries write them. Programs that would take over 4 GB are
left out. `--save` puts the rows of the families measured in the place of older ones, after each
cell. At the end it prints, for each cell, the time of the peer's best over that of `auto`, whether
`auto` was within 1.25 of the fastest of ours, and how far apart `auto` and the implementation that
it took are, which is the noise.
(R. Novak, J. Sohl-Dickstein, S. S. Schoenholz, *Fast Finite Width Neural Tangent Kernel*, ICML
2022, figures 1 and 2.)
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

import ntk_train
from experiments import networks
from experiments.measure import (
    PEERS,
    Kernel,
    Program,
    compile_kernel,
    has_peer,
    interleaved,
    peer_kernel,
    seconds_of,
)
from experiments.networks import Network
from experiments.record import RESULTS, merge_table
from experiments.summary import OURS, TOTALS, cells_of, totals

TABLE = "benchmark_implementations"
JACOBIAN_LIMIT = 2e9  # bytes
QUICK, COPIES = 5e-3, 3  # seconds, and how often what takes less is compiled
Row = dict[str, object]


class Case(NamedTuple):
    """A network to build, the number of its inputs, and the family that it is listed with."""

    family: str
    name: str
    build: Callable[[], Network]
    n: int
    o: int


def cases() -> Iterator[Case]:
    """The grid; of each family small cases first."""
    for width, o, n in itertools.product((64, 256, 1024), (1, 16, 128), (1, 8, 32)):
        yield Case("fcn", f"fcn {width}", functools.partial(networks.fcn, width, o), n, o)
    for channels, o, n in itertools.product((16, 64), (1, 10), (2, 16)):
        yield Case("cnn", f"cnn {channels}", functools.partial(networks.cnn, channels, o), n, o)
    for pixels, n, o in ((64, 4, 10), (224, 2, 1), (224, 2, 10)):
        build = functools.partial(networks.resnet18, o, pixels)
        yield Case("resnet", f"resnet-18 {pixels} px", build, n, o)
    yield Case("vit", "vit-tiny 32 px", functools.partial(networks.vit_tiny, 10), 8, 10)
    for n, o in ((4, 1), (2, 10)):
        yield Case("vit", "vit-s/16 224 px", functools.partial(networks.vit_s16, o), n, o)

    for form in networks.FORMS:
        yield Case("form", form, functools.partial(networks.form, form), 4, 8)

    foreign: dict[str, Callable[[int], Network]] = {
        "mixer under vmap": networks.mixer,
        "graph convolutions": networks.graph_convolutions,
        "transposed 8 x 8": functools.partial(networks.transposed_convolution, taps=8, stride=8),
        "transposed 4 x 4": functools.partial(networks.transposed_convolution, taps=4, stride=2),
    }
    for name, of_outputs in foreign.items():
        yield Case("foreign", name, functools.partial(of_outputs, 10), 2, 10)


def implementations(network: Network, n: int, o: int) -> dict[str, Kernel]:
    """Kernel functions by name, without those whose Jacobians would be too large."""
    fits = 4 * n * o * network.num_parameters < JACOBIAN_LIMIT
    chosen: dict[str, Kernel] = {
        name: functools.partial(ntk_train.ntk, network.f, implementation=name)
        for name in ("auto", *OURS)
        if fits or name in ("auto", "structured")
    }
    if has_peer():
        for name in PEERS:
            if fits or name == "nt structured":
                chosen[name] = peer_kernel(network.f, name)
    return chosen


def measure(case: Case, rounds: int) -> list[Row]:
    """A row for each implementation."""
    network = case.build()
    params, x = network.params, network.inputs(case.n)
    chosen = ntk_train.explain(network.f, params, x).implementation
    programs = {
        name: compile_kernel(kernel, params, x)
        for name, kernel in implementations(network, case.n, case.o).items()
    }
    programs = {k: program for k, program in programs.items() if program.peak_megabytes < 4e3}
    times = times_of(network, params, x, case, programs, rounds)
    entries = (case.n * case.o) ** 2
    return [
        {
            "family": case.family,
            "case": case.name,
            "n": case.n,
            "o": case.o,
            "num_parameters": network.num_parameters,
            "implementation": name,
            "chosen": chosen if name == "auto" else "",
            "milliseconds": f"{1e3 * times[name][0]:.4g}",
            "rounds": times[name][1],
            "flops_per_entry": f"{program.flops / entries:.4g}",
            "peak_megabytes": f"{program.peak_megabytes:.4g}",
            "compile_seconds": f"{program.compile_seconds:.2f}",
        }
        for name, program in programs.items()
    ]


def times_of(
    network: Network,
    params: Any,
    x: jax.Array,
    case: Case,
    programs: Mapping[str, Program],
    rounds: int,
) -> dict[str, tuple[float, int]]:
    """The fastest round of each program or of its copies, and how many rounds they had."""
    runs = {(k, 0): functools.partial(program.run, params, x) for k, program in programs.items()}

    def is_quick(name: str) -> bool:
        run = runs[name, 0]
        return min(seconds_of(run, 1, wait_for_each=True) for _ in range(3)) < QUICK

    quick = {name for name in programs if is_quick(name)}
    for i in range(1, COPIES):
        # New functions for each copy: JAX keeps what it compiled for one.
        for name, kernel in implementations(network, case.n, case.o).items():
            if name in quick:
                copy = compile_kernel(kernel, params, x)
                runs[name, i] = functools.partial(copy.run, params, x)
    times = interleaved(runs, rounds)
    return {
        name: (
            min(seconds for (k, _), (seconds, _) in times.items() if k == name),
            sum(count for (k, _), (_, count) in times.items() if k == name),
        )
        for name in programs
    }


def plot(rows: Sequence[Row]) -> None:
    """Milliseconds over width, a panel for each N and O, kept beside the table."""
    from matplotlib.figure import Figure

    colours = {"auto": "#2a5d9f", "jacobian_contraction": "#c0392b"}
    colours |= {"ntk_vector_products": "#c98a1b", "nt structured": "#6f6e69"}
    rows = [row for row in rows if row["family"] == "fcn"]
    panels = list(dict.fromkeys((row["n"], row["o"]) for row in rows))
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots(3, 3, sharex=True, squeeze=False).ravel()
    for panel, (n, o) in zip(axes, panels, strict=False):
        for name, colour in colours.items():
            line = [
                (int(str(row["case"]).split()[1]), float(str(row["milliseconds"])))
                for row in rows
                if (row["n"], row["o"], row["implementation"]) == (n, o, name)
            ]
            if line:
                panel.loglog(*zip(*line, strict=True), "o-", color=colour, label=name, markersize=3)
        panel.set_title(f"N {n}, O {o}", fontsize=9, loc="left")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7, frameon=False)
    figure.supxlabel("width of a 10-layer fully connected network", fontsize=9)
    figure.supylabel("milliseconds for a full kernel", fontsize=9)
    figure.savefig(RESULTS / f"{TABLE}.png", dpi=120)


def print_summary(rows: Sequence[Row]) -> None:
    """A line for each cell, then one for each family and all together."""
    cells = cells_of(rows)
    print("\ncell  auto ms  chosen  over own best  noise  peer's best  peer / auto  memory")
    for cell in cells:
        numbers = f"{cell.over_own_best:5.2f} {cell.noise:5.2f}  {cell.peer:<24}"
        ratios = f"{cell.peer_over_auto:6.2f} {cell.peer_memory_over_auto:6.2f}"
        print(f"{cell.name:<32} {cell.milliseconds:9.4g}  {cell.chosen:<20} {numbers} {ratios}")
    print()
    for line in (TOTALS, *totals(cells)):
        print("  ".join(line))


def main() -> None:
    """Measures, prints and keeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", default="", help="families to measure: fcn,cnn,resnet,vit,form,foreign"
    )
    parser.add_argument("--rounds", type=int, default=5, help="interleaved runs of each")
    parser.add_argument("--save", action="store_true", help="keep the table and its plot")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for case in cases():
        if arguments.only and case.family not in arguments.only.split(","):
            continue
        new = measure(case, arguments.rounds)
        if not rows:
            print("  ".join(new[0]))
        for row in new:
            print("  ".join(str(value) for value in row.values()), flush=True)
        rows += new
        if arguments.save:
            merge_table(TABLE, rows, key=["family"])
        jax.clear_caches()
    if not rows:
        parser.error(f"--only {arguments.only} is no family")
    if arguments.save and any(row["family"] == "fcn" for row in rows):
        plot(rows)
    print_summary(rows)


if __name__ == "__main__":
    main()
