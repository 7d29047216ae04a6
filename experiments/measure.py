"""How the benchmarks compile and time a kernel, and the peer's kernels as functions like ours."""

import functools
import importlib
import importlib.util
import math
import pathlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax

Kernel = Callable[[Any, jax.Array], jax.Array]
Name = TypeVar("Name")

PEERS = {"nt jacobian_contraction": 1, "nt ntk_vector_products": 2, "nt structured": 3}


class Program(NamedTuple):
    """A compiled kernel.

    Attributes:
      run: the program as a function of parameters and inputs.
      compile_seconds: to trace and compile it.
      flops: operations that XLA counts in it; a loop's body counts once.
      temporary_bytes: what it holds beside arguments and result.
      output_bytes: the size of its result.
    """

    run: Kernel
    compile_seconds: float
    flops: float
    temporary_bytes: int
    output_bytes: int

    @property
    def peak_megabytes(self) -> float:
        """Temporary memory and the result."""
        return (self.temporary_bytes + self.output_bytes) / 1e6


def compile_kernel(
    kernel: Kernel, params: Any, x: Any, options: Mapping[str, Any] | None = None
) -> Program:
    """Compiles `kernel(params, x)`, with XLA options if there are any."""
    start = time.perf_counter()
    lowered = jax.jit(kernel).lower(params, x)
    compiled = lowered.compile(compiler_options=dict(options)) if options else lowered.compile()
    seconds = time.perf_counter() - start
    flops = (compiled.cost_analysis() or {}).get("flops", math.nan)
    memory = compiled.memory_analysis()
    return Program(
        compiled,
        seconds,
        flops,
        getattr(memory, "temp_size_in_bytes", 0),
        getattr(memory, "output_size_in_bytes", 0),
    )


def seconds_of(run: Callable[[], jax.Array], count: int, *, wait_for_each: bool) -> float:
    """Mean seconds of `count` runs, waited for one by one or, as a queue, all together."""
    start = time.perf_counter()
    for _ in range(count):
        out = run()
        if wait_for_each:
            out.block_until_ready()
    out.block_until_ready()
    return (time.perf_counter() - start) / count


def interleaved(
    programs: Mapping[Name, Callable[[], jax.Array]],
    rounds: int,
    seconds_per_round: float = 0.05,
    cap: float = 20.0,
) -> dict[Name, tuple[float, int]]:
    """The fastest round of each program, and how many it had: each once in turn, in any order.

    A round repeats a program for about `seconds_per_round` and takes the mean; one under 0.1 s has
    four times as many rounds. All rounds of a program together take
    about `cap` seconds at most: a program that takes longer is run once, and that run counts.
    """
    best, counts, planned = {}, {}, {}
    for name, run in programs.items():
        first = seconds_of(run, 1, wait_for_each=True)  # the first run also warms up
        if first < cap:
            first = seconds_of(run, 1, wait_for_each=True)
        best[name] = first
        counts[name] = min(max(1, round(seconds_per_round / first)), 1000)
        wanted = rounds * (4 if first < 0.1 else 1)
        planned[name] = min(wanted, int(cap / (first * counts[name])))
    order = list(programs)
    for i in range(max(planned.values())):
        random.Random(i).shuffle(order)  # what runs before a program can slow it down
        for name in order:
            if i < planned[name]:
                seconds = seconds_of(programs[name], counts[name], wait_for_each=True)
                best[name] = min(best[name], seconds)
    return {name: (best[name], max(planned[name], 1)) for name in programs}


def median_seconds(
    run: Callable[[], jax.Array], batches: int = 10, batch_seconds: float = 0.02, cap: float = 20.0
) -> tuple[float, int]:
    """Median over batches of back-to-back runs of seconds for a run, and the number of batches.

    A batch is queued and waited for as a whole, and takes `batch_seconds` or one run; all batches
    together take about `cap` seconds at most, but there are three.
    """
    seconds_of(run, 1, wait_for_each=True)  # warm up
    first = seconds_of(run, 1, wait_for_each=True)
    count = min(math.ceil(batch_seconds / first), 500)
    first = min(first, seconds_of(run, count, wait_for_each=False))  # without the dispatch
    count = min(math.ceil(batch_seconds / first), 500)
    batches = max(3, min(batches, int(cap / (first * count))))
    times = [seconds_of(run, count, wait_for_each=False) for _ in range(batches)]
    return statistics.median(times), batches


def launches_of(run: Callable[[], jax.Array], runs: int = 1) -> list[tuple[str, float]]:
    """Name and milliseconds of each kernel that a GPU launches in some runs; none elsewhere."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(runs):
                run().block_until_ready()
        for path in sorted(pathlib.Path(folder).rglob("*.xplane.pb")):
            for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
                if plane.name.startswith("/device:GPU"):
                    streams = [line for line in plane.lines if line.name.startswith("Stream")]
                    found += [
                        (e.name, e.duration_ns / 1e6) for line in streams for e in line.events
                    ]
    return found


def has_peer() -> bool:
    """Whether neural-tangents is installed."""
    return importlib.util.find_spec("neural_tangents") is not None


def peer_kernel(f: Callable[[Any, jax.Array], jax.Array], name: str) -> Kernel:
    """The full kernel [n, m, o, p] of a batch with itself by neural-tangents."""
    if importlib.util.find_spec("nt_shim"):
        importlib.import_module("nt_shim")
    peer = importlib.import_module("neural_tangents")
    kernel_fn = peer.empirical_ntk_fn(f, (), (), 0, implementation=PEERS[name])
    return functools.partial(_of_one_batch, kernel_fn)


def _of_one_batch(kernel_fn: Callable[..., jax.Array], params: Any, x: jax.Array) -> jax.Array:
    return kernel_fn(x, None, params)
