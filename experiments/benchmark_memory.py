"""What does a kernel take within less memory, and how much longer?

Full kernels of x1 with itself, first without a budget, then with a half, a quarter and so on of
what that took as `memory_budget` of `ntk_train.ntk`. A row for each: what XLA says it takes beside
the arguments and the kernel, milliseconds (medians as in `benchmark_gpu`), seconds to trace and
compile, how many examples are there at a time, and the relative difference to the kernel without a
budget.

    python -m experiments.benchmark_memory                       # 10 minutes on an H100
    python -m experiments.benchmark_memory --smoke --out /tmp/smoke
"""

import argparse
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import ntk_train
from experiments import networks
from experiments.measure import compile_kernel, median_seconds
from experiments.networks import Network
from experiments.record import RESULTS, merge_table

TABLE = "benchmark_memory"
KEY = ("network", "n", "o", "part")
PARTS = (1, 2, 4, 16)
Row = dict[str, Any]


class Case(NamedTuple):
    """A network to build and the numbers of its inputs and outputs."""

    title: str
    build: Callable[[int], Network]
    n: int
    o: int


CASES = (
    Case("ResNet-50", networks.resnet50, 32, 1),
    Case("CNN 5 x 64, 32 px", functools.partial(networks.cnn, 64), 64, 10),
)
SMOKE = (Case("CNN 4, 8 px", lambda o: networks.cnn(4, o, 8, 2), 8, 2),)


def rows_of(case: Case) -> Iterator[Row]:
    """A row for each part of the memory."""
    network, exact = case.build(case.o), None
    x = network.inputs(case.n)
    taken = 0
    for part in PARTS:
        budget = taken / part if taken else None
        plan = ntk_train.explain(network.f, network.params, x, memory_budget=budget).plan
        kernel_of = functools.partial(
            ntk_train.ntk, network.f, implementation="structured", memory_budget=budget
        )
        program = compile_kernel(kernel_of, network.params, x)
        seconds, _ = median_seconds(functools.partial(program.run, network.params, x))
        kernel = np.asarray(program.run(network.params, x), np.float64)
        exact = kernel if exact is None else exact
        taken = taken or program.temporary_bytes
        yield {
            "network": case.title,
            "n": case.n,
            "o": case.o,
            "part": part,
            "budget_megabytes": f"{budget / 1e6:.4g}" if budget else "",
            "temporary_megabytes": f"{program.temporary_bytes / 1e6:.4g}",
            "milliseconds": f"{1e3 * seconds:.4g}",
            "compile_seconds": f"{program.compile_seconds:.1f}",
            "examples": plan.tiles.size if plan.tiles else case.n,
            "difference": f"{np.linalg.norm(kernel - exact) / np.linalg.norm(exact):.1e}",
        }


def main() -> None:
    """Measures, prints and keeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the table")
    parser.add_argument("--smoke", action="store_true", help="a tiny network, to try the script")
    arguments = parser.parse_args()
    if arguments.smoke and arguments.out == RESULTS:
        parser.error("--smoke needs --out: its numbers are no results")
    rows: list[Row] = []
    for case in SMOKE if arguments.smoke else CASES:
        for row in rows_of(case):
            print("  ".join(str(value) for value in row.values()), flush=True)
            rows.append(row)
            merge_table(TABLE, rows, KEY, arguments.out)
        jax.clear_caches()


if __name__ == "__main__":
    main()
