"""How much faster is a kernel on several devices?

Full kernels of x1 with itself of a CNN and a ResNet, on 1, 2, 4, ... devices of this machine, the
examples divided over them (strong scaling). A row for each: milliseconds (as in `benchmark_gpu`),
how many times as fast as on one device, the share of that in what so many devices could give, and
the difference from the kernel on one device, relative to it.

    python -m experiments.benchmark_mesh
    python -m experiments.benchmark_mesh --smoke --out /tmp/smoke    # tiny, on devices of a CPU
"""

import argparse
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import ntk_train
from experiments import networks
from experiments.benchmark_gpu import Case
from experiments.measure import median_seconds
from experiments.record import RESULTS, merge_table

TABLE = "benchmark_mesh"
KEY = ("case", "devices")
CASES = [
    Case("cnn-64", "CNN 5 x 64, 32 px", functools.partial(networks.cnn, 64, 10), 512, 10),
    Case("resnet18-64", "ResNet-18, 64 px", functools.partial(networks.resnet18, 10, 64), 400, 10),
]
SMOKE = [Case("cnn-4", "CNN 2 x 4, 8 px", functools.partial(networks.cnn, 4, 2, 8, 2), 6, 2)]


def rows_of(case: Case) -> Iterator[dict[str, Any]]:
    """A row for each number of devices."""
    network = case.build()
    x = np.asarray(network.inputs(case.n))
    whole, first = None, 0.0
    number = 1
    while number <= jax.device_count():
        mesh = jax.make_mesh((number,), ("data",), devices=jax.devices()[:number])
        kernel = jax.jit(functools.partial(ntk_train.ntk, network.f, mesh=mesh))
        divided = jax.NamedSharding(mesh, jax.P("data"))
        examples = jax.device_put(x, divided if case.n % number == 0 else None)
        params = jax.device_put(network.params, jax.NamedSharding(mesh, jax.P()))
        found = np.asarray(kernel(params, examples))
        run = functools.partial(kernel, params, examples)
        seconds, batches = median_seconds(run)
        if whole is None:
            whole, first = found, seconds
        difference = np.linalg.norm((found - whole).ravel()) / np.linalg.norm(whole)
        yield {
            "case": case.name,
            "network": case.title,
            "n": case.n,
            "o": case.o,
            "devices": number,
            "milliseconds": f"{1e3 * seconds:.4g}",
            "batches": batches,
            "speedup": f"{first / seconds:.2f}",
            "efficiency": f"{first / seconds / number:.2f}",
            "difference": f"{difference:.1e}",
        }
        number *= 2


def main() -> None:
    """Measures, prints and keeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the table")
    parser.add_argument("--smoke", action="store_true", help="a tiny network, to try the script")
    arguments = parser.parse_args()
    if arguments.smoke and arguments.out == RESULTS:
        parser.error("--smoke needs --out: its numbers are no results")
    rows: list[dict[str, Any]] = []
    for case in SMOKE if arguments.smoke else CASES:
        for row in rows_of(case):
            print("  ".join(str(value) for value in row.values()), flush=True)
            rows.append(row)
            merge_table(TABLE, rows, KEY, arguments.out)


if __name__ == "__main__":
    main()
