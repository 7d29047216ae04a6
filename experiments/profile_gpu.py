"""Where does the time of a kernel go on a GPU, launch by launch?

The programs of `benchmark_gpu`, traced by JAX's profiler: for each case how long a run takes, how
many kernels it launches, and the milliseconds of each kind of them; then the longest ones.

    python -m experiments.profile_gpu --cases vit-o10,resnet50-o10 --precision float32
    python -m experiments.profile_gpu --smoke            # tiny networks; on a CPU nothing is listed
"""

import argparse
import collections
import functools
import re
import sys
from collections.abc import Mapping

import ntk_train
from experiments.benchmark_gpu import Case, cases, smoke_cases
from experiments.measure import compile_kernel, launches_of

RUNS = 3

# What the names of launches say that they are; the first that fits.
KINDS = {
    "convolution": r"conv|wgrad|dgrad|fprop|winograd|fft",
    "product": r"gemm|cutlass|cublas|dot|nvjet|sm\d\d_xmma",
    "copy or transposition": r"transpose|copy|concatenate|pad|slice|Memcpy",
    "reduction": r"reduce",
    "fusion": r"fusion|loop|input_",
}


def profile(case: Case, precision: str, options: Mapping[str, str]) -> None:
    """Compiles, runs, traces and prints one case."""
    network = case.build()
    x = network.inputs(case.n)
    kernel = functools.partial(ntk_train.ntk, network.f, precision=precision)
    program = compile_kernel(kernel, network.params, x, options)
    program.run(network.params, x).block_until_ready()
    found = launches_of(functools.partial(program.run, network.params, x), RUNS)
    total = sum(ms for _, ms in found) / RUNS
    print(
        f"\n{case.name} at {precision}: {total:.2f} ms in {len(found) / RUNS:.0f} launches, "
        f"compiled in {program.compile_seconds:.0f} s, {program.temporary_bytes / 1e6:.0f} MB"
    )
    of_kind: dict[str, list[float]] = collections.defaultdict(list)
    of_name: dict[str, list[float]] = collections.defaultdict(list)
    for name, ms in found:
        kinds = (kind for kind, text in KINDS.items() if re.search(text, name))
        of_kind[next(kinds, "other")].append(ms / RUNS)
        of_name[re.sub(r"_\d+$", "", name)[:90]].append(ms / RUNS)
    for title, table, count in (("kind", of_kind, 9), ("launch", of_name, 25)):
        print(f"  ms   launches  {title}")
        ordered = sorted(table.items(), key=lambda item: -sum(item[1]))
        for name, times in ordered[:count]:
            print(f"  {sum(times):6.3f}  {len(times) / RUNS:5.0f}  {name}")
    sys.stdout.flush()


def main() -> None:
    """Prints the profiles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="", help=f"of {[case.name for case in cases()]}")
    parser.add_argument("--precision", default="float32", help="as in ntk_train.ntk")
    parser.add_argument("--options", default="", help="XLA options, NAME=VALUE,...")
    parser.add_argument("--smoke", action="store_true", help="tiny networks, to try the script")
    arguments = parser.parse_args()
    names = arguments.cases.split(",") if arguments.cases else []
    options = dict(pair.split("=") for pair in arguments.options.split(",") if pair)
    for case in smoke_cases() if arguments.smoke else cases():
        if not names or case.name in names:
            profile(case, arguments.precision, options)


if __name__ == "__main__":
    main()
