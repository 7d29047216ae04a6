"""How fast is each implementation, and how much does it compute, on networks of each kind?

The grid of figure 1 of the paper (10-layer ReLU networks of width 2^k, O outputs, N inputs) and a
grid of CNNs, full kernels of x1 with itself in float32: seconds, operations that XLA counts for a
kernel entry, temporary memory and seconds to compile, of our implementations and, where it is
installed, of neural-tangents 0.6.5 in the same process. Runs are interleaved, round by round, and
the fastest of each is kept.

    python -m experiments.benchmark_implementations --save            # 6 minutes on 2 cores
    python -m experiments.benchmark_implementations --only cnn --rounds 3

Expected on 2 cores of a CPU, against our own Jacobian contraction: 2 to 130 times faster on fully
connected networks of width 256 and above, 1.1 to 1.8 times on CNNs, and half as fast in one row
(16 channels, N 16, O 1); against the peer's best, from 0.5 in that row to 3.5, and 1.2 in the
geometric mean.
(R. Novak, J. Sohl-Dickstein, S. S. Schoenholz,
*Fast Finite Width Neural Tangent Kernel*, ICML 2022, figure 1.)
"""

import argparse
import functools
import importlib
import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

import ntk_train
from experiments.record import RESULTS, save_table

HEADER = [
    "case", "n", "o", "num_parameters", "implementation", "milliseconds", "flops_per_entry",
    "temporary_megabytes", "compile_seconds",
]  # fmt: skip
OURS = ("structured", "jacobian_contraction", "ntk_vector_products")
PEERS = {1: "nt jacobian_contraction", 2: "nt ntk_vector_products", 3: "nt structured"}


class Case(NamedTuple):
    """A network, its inputs, and the family that it is plotted with."""

    family: str
    name: str
    f: Callable[[Any, jax.Array], jax.Array]
    params: Any
    x: jax.Array
    num_outputs: int


def fcn(width: int, o: int, n: int, depth: int = 10) -> Case:
    """A ReLU network of `depth` layers without biases."""
    sizes = [width] * depth + [o]
    keys = jax.random.split(jax.random.key(0), depth)
    params = [
        jax.random.normal(key, (a, b)) / a**0.5
        for key, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]

    def f(params: list[jax.Array], x: jax.Array) -> jax.Array:
        for w in params[:-1]:
            x = jax.nn.relu(x @ w)
        return x @ params[-1]

    return Case("fcn", f"fcn {width}", f, params, jax.random.normal(keys[0], (n, width)), o)


def cnn(channels: int, o: int, n: int, pixels: int = 32, depth: int = 5) -> Case:
    """3 x 3 convolutions with ReLU, average pooling and a dense layer, without biases."""
    keys = jax.random.split(jax.random.key(0), depth + 1)
    sizes = [3] + [channels] * depth
    params = [
        jax.random.normal(key, (3, 3, a, b)) / (9 * a) ** 0.5
        for key, a, b in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]
    params.append(jax.random.normal(keys[-1], (channels, o)) / channels**0.5)
    layout = ("NHWC", "HWIO", "NHWC")

    def f(params: list[jax.Array], x: jax.Array) -> jax.Array:
        for w in params[:-1]:
            x = jax.nn.relu(
                jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)
            )
        return x.mean(axis=(1, 2)) @ params[-1]

    x = jax.random.normal(keys[0], (n, pixels, pixels, 3))
    return Case("cnn", f"cnn {channels}", f, params, x, o)


def cases() -> Iterator[Case]:
    """The grid, small cases first."""
    for width, o, n in itertools.product((64, 256, 1024), (1, 16, 128), (1, 8, 32)):
        yield fcn(width, o, n)
    for channels, o, n in itertools.product((16, 64), (1, 10), (2, 16)):
        yield cnn(channels, o, n)


def implementations(case: Case) -> dict[str, Callable[[Any, jax.Array], jax.Array]]:
    """Kernel functions by name, without those whose Jacobians would take over 1 GB."""
    size = sum(leaf.size for leaf in jax.tree.leaves(case.params))
    fits = 4 * len(case.x) * case.num_outputs * size < 1e9
    chosen: dict[str, Callable[[Any, jax.Array], jax.Array]] = {
        name: functools.partial(ntk_train.ntk, case.f, implementation=name)
        for name in OURS
        if fits or name == "structured"
    }
    if importlib.util.find_spec("neural_tangents"):
        if importlib.util.find_spec("nt_shim"):
            importlib.import_module("nt_shim")
        peer = importlib.import_module("neural_tangents")
        for number, name in PEERS.items():
            if fits or number == 3:
                kernel_fn = peer.empirical_ntk_fn(case.f, (), (), 0, implementation=number)
                chosen[name] = _of_one_batch(kernel_fn)
    return chosen


def _of_one_batch(kernel_fn: Callable) -> Callable[[Any, jax.Array], jax.Array]:
    return lambda params, x: kernel_fn(x, None, params)


def measure(case: Case, rounds: int) -> list[tuple]:
    """A row for each implementation."""
    compiled, compile_seconds = {}, {}
    for name, kernel in implementations(case).items():
        start = time.perf_counter()
        compiled[name] = jax.jit(kernel).lower(case.params, case.x).compile()
        compile_seconds[name] = time.perf_counter() - start
    best = dict.fromkeys(compiled, float("inf"))
    for _ in range(rounds + 1):
        for name, kernel in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(kernel(case.params, case.x))
            best[name] = min(best[name], time.perf_counter() - start)
    entries = (len(case.x) * case.num_outputs) ** 2
    size = sum(leaf.size for leaf in jax.tree.leaves(case.params))
    rows = []
    for name, program in compiled.items():
        flops = (program.cost_analysis() or {}).get("flops", float("nan")) / entries
        memory = getattr(program.memory_analysis(), "temp_size_in_bytes", 0) / 1e6
        row = (case.name, len(case.x), case.num_outputs, size, name, f"{1e3 * best[name]:.3f}")
        rows.append((*row, f"{flops:.4g}", f"{memory:.1f}", f"{compile_seconds[name]:.2f}"))
    return rows


def plot(rows: list[tuple]) -> None:
    """Milliseconds over width, a panel for each N and O, kept beside the table."""
    from matplotlib.figure import Figure

    colours = {"structured": "#2a5d9f", "jacobian_contraction": "#c0392b"}
    colours |= {"ntk_vector_products": "#c98a1b", "nt structured": "#6f6e69"}
    panels = sorted({(row[1], row[2]) for row in rows if row[0].startswith("fcn")})
    if not panels:
        return
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots(3, 3, sharex=True, squeeze=False).ravel()
    for panel, (n, o) in zip(axes, panels, strict=False):
        for name, colour in colours.items():
            line = [
                (int(row[0].split()[1]), float(row[5]))
                for row in rows
                if row[0].startswith("fcn") and row[1:3] == (n, o) and row[4] == name
            ]
            if line:
                panel.loglog(*zip(*line, strict=True), "o-", color=colour, label=name, markersize=3)
        panel.set_title(f"N {n}, O {o}", fontsize=9, loc="left")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7, frameon=False)
    figure.supxlabel("width of a 10-layer fully connected network", fontsize=9)
    figure.supylabel("milliseconds for a full kernel", fontsize=9)
    figure.savefig(RESULTS / "benchmark_implementations.png", dpi=120)


def main() -> None:
    """Measures, prints and keeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="families to measure, for example cnn")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved runs of each")
    parser.add_argument("--save", action="store_true", help="keep the table and its plot")
    arguments = parser.parse_args()
    print("  ".join(HEADER))
    rows = []
    for case in cases():
        if arguments.only in case.family:
            rows += measure(case, arguments.rounds)
            for row in rows[-len(implementations(case)) :]:
                print("  ".join(map(str, row)), flush=True)
    if arguments.save:
        save_table("benchmark_implementations", HEADER, rows)
        plot(rows)


if __name__ == "__main__":
    main()
