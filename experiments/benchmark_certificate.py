"""What does the certificate of a kernel cost, and how far from rounding does it stay?

For each network and precision: milliseconds of the kernel and of the derivatives that certify it
(medians as in `benchmark_gpu`), both compiled; the deviation that it finds, and its tolerance. The
hook takes it of its first measurement, the second, fourth, eighth and so on.

    python -m experiments.benchmark_certificate            # 5 minutes on an H100
    python -m experiments.benchmark_certificate --cpu      # smaller networks, 3 minutes on 2 cores
    python -m experiments.benchmark_certificate --smoke --out /tmp/smoke
"""

import argparse
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

import ntk_train
from experiments import networks
from experiments.measure import compile_kernel, median_seconds
from experiments.networks import Network
from experiments.record import RESULTS, merge_table
from ntk_train.kernel.certificate import Check
from ntk_train.kernel.options import KernelOptions

TABLE = "benchmark_certificate"
KEY = ("network", "n", "o", "outputs", "precision", "device")
Row = dict[str, Any]


class Case(NamedTuple):
    """A network to build, the numbers of its inputs and outputs, and the kernel to take."""

    title: str
    build: Callable[[int], Network]
    n: int
    o: int
    outputs: str


ON_A_GPU = (
    Case("FCN 10 x 1024", functools.partial(networks.fcn, 1024), 8, 16, "full"),
    Case("CNN 5 x 64, 32 px", functools.partial(networks.cnn, 64), 64, 10, "trace"),
    Case("CNN 5 x 64, 32 px", functools.partial(networks.cnn, 64), 64, 10, "full"),
    Case("ResNet-18, 224 px", networks.resnet18, 32, 10, "trace"),
    Case("ResNet-50, 224 px", networks.resnet50, 32, 1, "full"),
    Case("ViT-S/16, 224 px", networks.vit_s16, 2, 10, "full"),
)
ON_A_CPU = (
    Case("FCN 10 x 256", functools.partial(networks.fcn, 256), 16, 10, "trace"),
    Case("CNN 5 x 64, 32 px", functools.partial(networks.cnn, 64), 16, 10, "trace"),
    Case("CNN 5 x 64, 32 px", functools.partial(networks.cnn, 64), 16, 10, "full"),
)
SMOKE = (Case("CNN 4, 8 px", lambda o: networks.cnn(4, o, 8, 2), 4, 2, "trace"),)


def rows_of(case: Case, precisions: tuple[str, ...]) -> Iterator[Row]:
    """A row for each precision."""
    network = case.build(case.o)
    x = network.inputs(case.n)
    for precision in precisions:
        options: dict[str, Any] = {"outputs": case.outputs, "precision": precision}
        kernel_of = functools.partial(ntk_train.ntk, network.f, **options)
        kernel = compile_kernel(kernel_of, network.params, x)
        check = Check(network.f, network.params, x, None, KernelOptions(**options))

        def product_of(params: Any, inputs: Any, check: Check = check) -> Any:
            return check.product(network.f, params, inputs[0], None, inputs[1])

        # No array comes out, but what a comparison takes.
        product: Any = compile_kernel(product_of, network.params, (x, check.passes[0]))

        def products(check: Check = check, product: Any = product) -> list[Any]:
            return [product.run(network.params, (x, a_pass)) for a_pass in check.passes]

        certificate = check.compare(kernel.run(network.params, x), products())
        seconds, _ = median_seconds(functools.partial(kernel.run, network.params, x))
        of_check, _ = median_seconds(lambda run=products: run()[-1].inner)  # type: ignore[misc]
        yield {
            "network": case.title,
            "n": case.n,
            "o": case.o,
            "outputs": case.outputs,
            "precision": precision,
            "device": jax.default_backend(),
            "kernel_milliseconds": f"{1e3 * seconds:.4g}",
            "check_milliseconds": f"{1e3 * of_check:.4g}",
            "check_megabytes": f"{product.temporary_bytes / 1e6:.4g}",
            "deviation": f"{certificate.deviation:.1e}",
            "tolerance": f"{max(certificate.tolerances.values()):.1e}",
            "holds": "yes" if certificate.holds else "no",
        }


def main() -> None:
    """Measures, prints and keeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the table")
    parser.add_argument("--cpu", action="store_true", help="networks for a CPU")
    parser.add_argument("--smoke", action="store_true", help="a tiny network, to try the script")
    arguments = parser.parse_args()
    if arguments.smoke and arguments.out == RESULTS:
        parser.error("--smoke needs --out: its numbers are no results")
    cases = SMOKE if arguments.smoke else ON_A_CPU if arguments.cpu else ON_A_GPU
    # Products in lower precision are rounded on an accelerator alone.
    precisions = ("highest",) if jax.default_backend() == "cpu" else ("highest", "default")
    rows: list[Row] = []
    for case in cases:
        for row in rows_of(case, precisions):
            print("  ".join(str(value) for value in row.values()), flush=True)
            rows.append(row)
            merge_table(TABLE, rows, KEY, arguments.out)
        jax.clear_caches()


if __name__ == "__main__":
    main()
