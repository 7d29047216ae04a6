"""How fast and how exact is the kernel on a GPU, at which precision of the matrix products?

Full kernels of x1 with itself, of networks from a 10-layer perceptron to ResNet-50 and ViT-S/16,
with up to 1000 outputs. A row for each case and step, a step being a precision and an
implementation: milliseconds, the median of 10 batches of back-to-back runs (a batch is one run
where that takes over 20 ms, and is waited for as a whole, so that no dispatch is counted; fewer
batches where they would take over 20 seconds); how many kernels a run launches, and how long these
take; the rate in TFLOP/s, of the operations that the structured plan counts, whatever the
implementation does; seconds to trace and compile; temporary memory; and the relative error
||K - K64|| / ||K64|| against the structured kernel in float64, of the same float32 parameters and
inputs cast to it, with how far numbers of its spectrum are shifted.

    python -m experiments.benchmark_gpu                             # an hour or more, see below
    python -m experiments.benchmark_gpu --cases resnet18,vit-o10 --steps highest/auto
    python -m experiments.benchmark_gpu --smoke --out /tmp/smoke    # tiny networks, on a CPU too

Nearly all of the time is XLA's compilation, half a minute or more for a program. So steps are taken
one after the other for all cases, the important ones first, and the table is written after each
row: a run that is stopped leaves what it had, and runs of other cases or steps add to the table in
`--out`. A case that has taken over `--case-seconds`, and everything after `--minutes`, is left out.

Float64 kernels do not depend on the machine, as parameters and inputs come from NumPy. With
`--references FOLDER` they are kept there, and a run that finds them computes none and has no row
for them, so that a machine with time to spare can make them:

    python -m experiments.benchmark_gpu --steps float64/structured --references /tmp/references

To see what XLA's options do to the compile time, set them and compare the column: for all programs
in the environment, which is recorded (`XLA_FLAGS=--xla_gpu_autotune_level=0`, or
`JAX_COMPILATION_CACHE_DIR=FOLDER` and two runs); for float64 alone, whose speed is not measured,
with `--reference-options xla_gpu_autotune_level=0`.
"""

import argparse
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import ntk_train
from experiments import networks
from experiments.measure import (
    PEERS,
    Kernel,
    Program,
    compile_kernel,
    has_peer,
    launches_of,
    median_seconds,
    peer_kernel,
)
from experiments.networks import Network
from experiments.record import RESULTS, merge_table
from ntk_train.spectrum.eigen import kernel_spectrum

TABLE = "benchmark_gpu"
KEY = ("case", "implementation", "precision")
FLOAT64_JACOBIAN_LIMIT = 4e9  # bytes
SHIFTS = {
    "lambda_max": "lambda_max",
    "lambda_min": "lambda_min",
    "condition": "condition_number",
    "effective_rank": "effective_rank",
}
"""Numbers of a spectrum whose relative shift is a column each, and their names as quantities."""
Row = dict[str, object]


class Case(NamedTuple):
    """A network to build and the number of its inputs.

    Attributes:
      name: by which it is picked.
      title: how it is listed.
      build: the network.
      n: inputs.
      o: outputs.
      jacobian: whether Jacobian contraction is tried.
    """

    name: str
    title: str
    build: Callable[[], Network]
    n: int
    o: int
    jacobian: bool = True


class Step(NamedTuple):
    """A way to compute each kernel; `precision` "none" is None, "float64" another dtype."""

    precision: str
    implementation: str


REFERENCE = Step("float64", "structured")
STEPS = (
    Step("float32", "auto"),
    Step("highest", "auto"),
    REFERENCE,
    Step("split", "auto"),
    Step("fast", "auto"),
    Step("BF16_BF16_F32_X3", "auto"),
    Step("highest", "jacobian_contraction"),
    Step("default", "auto"),
    Step("none", "auto"),
    Step("highest", "structured"),
    Step("highest", "nt structured"),
    Step("float64", "jacobian_contraction"),
)


def cases() -> list[Case]:
    """The networks of the table."""
    bind = functools.partial
    return [
        Case("fcn-1024", "FCN 10 x 1024", bind(networks.fcn, 1024, 16), 8, 16),
        Case("vit-o10", "ViT-S/16", bind(networks.vit_s16, 10), 2, 10),
        Case("resnet18", "ResNet-18", bind(networks.resnet18, 10), 2, 10),
        Case("cnn-64", "CNN 5 x 64, 32 px", bind(networks.cnn, 64, 10), 64, 10),
        Case("resnet50-o10", "ResNet-50", bind(networks.resnet50, 10), 2, 10),
        Case("fcn-4096", "FCN 10 x 4096", bind(networks.fcn, 4096, 16), 32, 16),
        Case("resnet50-n32", "ResNet-50", bind(networks.resnet50, 1), 32, 1),
        Case("vit-o384", "ViT-S/16", bind(networks.vit_s16, 384), 2, 384),
        Case("vit-o1000", "ViT-S/16", bind(networks.vit_s16, 1000), 2, 1000, jacobian=False),
        Case("resnet50-o1000", "ResNet-50", bind(networks.resnet50, 1000), 1, 1000, jacobian=False),
    ]


def smoke_cases() -> list[Case]:
    """Stand-ins of each kind that compile and run in seconds."""
    bind = functools.partial
    return [
        Case("fcn-16", "FCN 3 x 16", bind(networks.fcn, 16, 3, 3), 2, 3),
        Case("cnn-4", "CNN 2 x 4, 8 px", bind(networks.cnn, 4, 2, 8, 2), 2, 2),
        Case("resnet-tiny", "ResNet, 2 blocks", bind(networks.resnet_tiny, 2), 2, 2),
        Case("vit-tiny", "ViT, 4 layers", bind(networks.vit_tiny, 2, 16), 2, 2, jacobian=False),
    ]


class Benchmark:
    """Measures steps of cases, and compares each case's kernels with its float64 kernel.

    Attributes:
      rows: of the table, so far.
    """

    def __init__(
        self, references: pathlib.Path | None, reference_options: Mapping[str, str]
    ) -> None:
        self.rows: list[Row] = []
        self._references = references
        self._reference_options = reference_options
        self._networks: dict[str, Network] = {}
        self._chosen: dict[str, str] = {}
        self._operations: dict[str, int] = {}
        self._exact: dict[str, np.ndarray] = {}
        self._kernels: list[tuple[Case, Row, np.ndarray]] = []

    def measure(self, case: Case, step: Step) -> Row | None:
        """The row of a step, with the reason where it failed; None where it has nothing to do."""
        if case.name not in self._networks:
            network = self._networks[case.name] = case.build()
            x = network.inputs(case.n)
            explained = ntk_train.explain(network.f, network.params, x)
            self._chosen[case.name] = explained.implementation
            self._operations[case.name] = explained.costs["structured"].operations
        network = self._networks[case.name]
        if not self._applies(case, step):
            return None
        kept = self._kept(case)
        if step == REFERENCE and kept is not None and kept.exists():
            self._compare(case, step, {}, np.load(kept))
            return None
        row: Row = {
            "case": case.name,
            "network": case.title,
            "n": case.n,
            "o": case.o,
            "num_parameters": network.num_parameters,
            "implementation": step.implementation,
            "chosen": self._chosen[case.name] if step.implementation == "auto" else "",
            "precision": step.precision,
            "milliseconds": "",
            "batches": "",
            "launches": "",
            "device_milliseconds": "",
            "tflops": "",
            "compile_seconds": "",
            "temporary_megabytes": "",
            "output_megabytes": "",
            "relative_error": "",
            **dict.fromkeys(SHIFTS, ""),
            "note": "",
        }
        self.rows.append(row)
        try:
            self._compare(case, step, row, self._kernel_of(case, step, network, row))
        except Exception as error:  # out of memory, say: the other rows are still wanted
            lines = str(error).strip().splitlines() or [""]
            row["note"] = f"{type(error).__name__}: {lines[0][:200]}"
        return row

    def _applies(self, case: Case, step: Step) -> bool:
        if step.implementation == "structured" and step.precision != "float64":
            return self._chosen[case.name] != "structured"  # else it is auto's program once more
        if step.implementation == "jacobian_contraction" and step.precision == "float64":
            size = 8 * case.n * case.o * self._networks[case.name].num_parameters
            return size < FLOAT64_JACOBIAN_LIMIT
        if step.implementation == "jacobian_contraction":
            return case.jacobian
        return has_peer() or step.implementation not in PEERS

    def _kernel_of(self, case: Case, step: Step, network: Network, row: Row) -> np.ndarray:
        x = network.inputs(case.n)
        function = _kernel_function(network, step)
        if step.precision != "float64":
            program = compile_kernel(function, network.params, x)
            _describe(row, program)
            run = functools.partial(program.run, network.params, x)
            seconds, row["batches"] = median_seconds(run)
            row["milliseconds"] = f"{1e3 * seconds:.4g}"
            row["tflops"] = f"{self._operations[case.name] / seconds / 1e12:.3g}"
            if launches := launches_of(run):
                row["launches"] = len(launches)
                row["device_milliseconds"] = f"{sum(ms for _, ms in launches):.4g}"
            kernel = np.asarray(run())
            return kernel.swapaxes(1, 2) if step.implementation in PEERS else kernel
        with jax.enable_x64(True):
            wide = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves((network.params, x))]
            params, x = jax.tree.unflatten(
                jax.tree.structure((network.params, x)), [jax.numpy.asarray(leaf) for leaf in wide]
            )
            program = compile_kernel(function, params, x, self._reference_options)
            _describe(row, program)
            kernel = np.asarray(program.run(params, x))
        if kernel.dtype != np.float64:
            raise TypeError(f"the float64 kernel came as {kernel.dtype}")
        kept = self._kept(case)
        if step == REFERENCE and kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.save(kept, kernel)
        return kernel

    def _kept(self, case: Case) -> pathlib.Path | None:
        return self._references / f"{case.name}.npy" if self._references else None

    def _compare(self, case: Case, step: Step, row: Row, kernel: np.ndarray) -> None:
        """Fills in errors: of this row, or with the float64 kernel those of rows before it."""
        if step == REFERENCE:
            self._exact[case.name] = kernel
            waiting = [entry for entry in self._kernels if entry[0] == case]
            self._kernels = [entry for entry in self._kernels if entry[0] != case]
        else:
            waiting = [(case, row, kernel)]
        for of_case, of_row, approximate in waiting:
            if case.name in self._exact:
                exact = self._exact[case.name]
                error = np.linalg.norm((approximate - exact).ravel()) / np.linalg.norm(exact)
                of_row["relative_error"] = f"{error:.2e}"
                of_row |= _shifts(approximate, exact)
            else:
                self._kernels.append((of_case, of_row, approximate))


def _kernel_function(network: Network, step: Step) -> Kernel:
    if step.implementation in PEERS:
        peer = peer_kernel(network.f, step.implementation)

        def at_precision(params: Any, x: jax.Array) -> jax.Array:
            with jax.default_matmul_precision(step.precision):
                return peer(params, x)

        return at_precision
    precision = {"none": None, "float64": "highest"}.get(step.precision, step.precision)
    return functools.partial(
        ntk_train.ntk, network.f, implementation=step.implementation, precision=precision
    )


def _shifts(kernel: np.ndarray, exact: np.ndarray) -> Row:
    """How far numbers of the spectrum are from those of the float64 kernel, relative to them."""
    own, true = (kernel_spectrum(k.astype(np.float64), eps=0.0).scalars() for k in (kernel, exact))
    return {
        column: f"{own[name] / true[name] - 1:.1e}" if true[name] else ""
        for column, name in SHIFTS.items()
    }


def _describe(row: Row, program: Program) -> None:
    row["compile_seconds"] = f"{program.compile_seconds:.1f}"
    row["temporary_megabytes"] = f"{program.temporary_bytes / 1e6:.4g}"
    row["output_megabytes"] = f"{program.output_bytes / 1e6:.4g}"


def run(
    benchmark: Benchmark,
    chosen: Sequence[Case],
    steps: Sequence[Step],
    folder: pathlib.Path,
    case_seconds: float,
    minutes: float,
) -> None:
    """All steps of all cases, step by step; the table is written after each row."""
    start = time.perf_counter()
    spent = dict.fromkeys((case.name for case in chosen), 0.0)
    for step in steps:
        for case in chosen:
            before = time.perf_counter()
            if spent[case.name] > case_seconds or before - start > 60 * minutes:
                print(f"left out for lack of time: {case.name} {'/'.join(step)}", flush=True)
                continue
            row = benchmark.measure(case, step)
            spent[case.name] += time.perf_counter() - before
            if row is not None:
                took = time.perf_counter() - before
                print("  ".join(str(value) for value in row.values()), f" {took:.0f} s", flush=True)
            if benchmark.rows:
                merge_table(TABLE, benchmark.rows, KEY, folder)


def main() -> None:
    """Measures, prints and keeps."""
    everything = ",".join("/".join(step) for step in STEPS)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="", help=f"of {[case.name for case in cases()]}")
    parser.add_argument("--steps", default=everything, help="precision/implementation,...")
    parser.add_argument("--skip-float64", action="store_true", help="no errors are measured")
    parser.add_argument("--references", type=pathlib.Path, help="folder of float64 kernels")
    parser.add_argument("--reference-options", default="", help="XLA options, NAME=VALUE,...")
    parser.add_argument("--case-seconds", type=float, default=600.0, help="for each case")
    parser.add_argument("--minutes", type=float, default=1e9, help="for all")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the table")
    parser.add_argument("--smoke", action="store_true", help="tiny networks, to try the script")
    arguments = parser.parse_args()

    steps = [Step(*text.split("/")) for text in arguments.steps.split(",")]
    unknown = [step for step in steps if step not in STEPS]
    names = arguments.cases.split(",") if arguments.cases else []
    available = {case.name: case for case in (smoke_cases() if arguments.smoke else cases())}
    if unknown or not available.keys() >= set(names):
        sys.exit(f"--steps are among {everything}; --cases among {','.join(available)}")
    if arguments.smoke and arguments.out == RESULTS:
        parser.error("--smoke needs --out: its numbers are no results")
    if arguments.skip_float64:
        steps = [step for step in steps if step.precision != "float64"]
    options = dict(pair.split("=") for pair in arguments.reference_options.split(",") if pair)
    benchmark = Benchmark(arguments.references, options)
    chosen = [available[name] for name in names or available]
    run(benchmark, chosen, steps, arguments.out, arguments.case_seconds, arguments.minutes)


if __name__ == "__main__":
    main()
