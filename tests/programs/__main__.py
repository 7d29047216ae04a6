"""Checks many random programs in parallel processes.

python -m tests.programs --count 10000 --jobs 16 --seed 0
python -m tests.programs --features 1000     how often each feature is drawn
python -m tests.programs --show 17           the text of one program
"""

import argparse
import collections
import concurrent.futures
import functools
import multiprocessing
import os
import sys
import time

THREADS = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
    "OMP_NUM_THREADS": "1",
    "NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", ""),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200, help="how many programs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many processes")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--one", action="store_true", help="one kernel of each program")
    parser.add_argument("--shrink", type=float, default=30.0, help="seconds for each failure")
    parser.add_argument("--features", type=int, metavar="COUNT", help="only count features")
    parser.add_argument("--show", type=int, metavar="SEED", help="only print a program")
    arguments = parser.parse_args()
    os.environ.update(THREADS)  # before jax is imported, here and in the other processes
    if arguments.show is not None:
        from tests.programs.build import write
        from tests.programs.choices import draw

        print(write(draw(arguments.show)).script())
        return 0
    if arguments.features is not None:
        return _print_features(arguments.seed, arguments.features)
    return _check(arguments)


def _print_features(seed: int, count: int) -> int:
    from tests.programs.build import write
    from tests.programs.choices import draw

    found = collections.Counter()
    for i in range(seed, seed + count):
        found.update(write(draw(i)).features)
    for name, times in found.most_common():
        print(f"{100 * times / count:6.1f} %  {name}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from tests.programs.run import run

    start, outcomes = time.monotonic(), []
    work = functools.partial(run, every_call=not arguments.one, shrink_seconds=arguments.shrink)
    todo = list(range(arguments.seed, arguments.seed + arguments.count))
    crashed = []
    while todo:
        done, suspects = _in_processes(work, todo, arguments.jobs, start, len(outcomes))
        outcomes += done
        if not suspects:
            break
        # A process died: of the programs that ran then each is tried alone.
        todo = sorted(set(todo) - {seed for seed, _ in done} - set(suspects))
        for seed in suspects:
            alone, died = _in_processes(work, [seed], 1, start, len(outcomes))
            outcomes += alone
            crashed += died
    _report([outcome for _, outcome in outcomes], crashed, time.monotonic() - start)
    return int(bool(crashed) or any(outcome.result.failed for _, outcome in outcomes))


def _in_processes(work, seeds, jobs, start, before):
    """Outcomes by seed, and the seeds that ran when a process died."""
    context = multiprocessing.get_context("spawn")
    done, failed = [], 0
    waiting = collections.deque(seeds)
    with concurrent.futures.ProcessPoolExecutor(
        jobs, mp_context=context, max_tasks_per_child=100
    ) as pool:
        running: dict = {}
        while waiting or running:
            while waiting and len(running) < 2 * jobs:
                seed = waiting.popleft()
                running[pool.submit(work, seed)] = seed
            ready, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in ready:
                if isinstance(future.exception(), concurrent.futures.process.BrokenProcessPool):
                    return done, sorted(running.values())
                outcome = future.result()
                done.append((running.pop(future), outcome))
                failed += outcome.result.failed
                if outcome.result.failed:
                    _print_failure(outcome)
            _progress(before + len(done), failed, time.monotonic() - start)
    return done, []


def _progress(done: int, failed: int, seconds: float) -> None:
    end = "\r" if sys.stderr.isatty() else "\n"
    if end == "\r" or done % 100 == 0:
        print(f"{done} programs, {failed} failed, {seconds:.0f} s", file=sys.stderr, end=end)


def _print_failure(outcome) -> None:
    result = outcome.result
    print(f"\nseed {outcome.seed} {result.verdict}: error {result.error:.2g} {result.why}")
    for call in result.calls:
        print(f"  {call}")
    print(outcome.text.script(), flush=True)


def _report(outcomes: list, crashed: list, seconds: float) -> None:
    verdicts = collections.Counter(outcome.result.verdict for outcome in outcomes)
    rejected = collections.Counter(why for outcome in outcomes for why in outcome.rejected)
    agreeing = [o.result for o in outcomes if not o.result.failed]
    kernels = sum(len(result.calls) for result in agreeing)
    worst = max((result.error for result in agreeing), default=0.0)
    failures = sorted((o for o in outcomes if o.result.failed), key=lambda o: len(o.text.body))
    why = collections.Counter(o.result.why or o.result.verdict for o in failures)
    print(
        f"\n{len(outcomes)} programs in {seconds:.0f} s: {dict(verdicts)}; {kernels} kernels agree,"
    )
    print(f"the worst error of these is {worst:.2g}; redrawn: {dict(rejected)}")
    for reason, times in why.most_common():
        print(f"  {times} x {reason}")
    for trace in [trace for o in outcomes for trace in o.broken][:5]:
        print(f"f itself fails, {trace}")
    if crashed:
        print(f"a process died in the programs of the seeds {crashed}")
    if failures:
        print(f"failed: {[o.seed for o in failures]}\nthe smallest:")
    for outcome in failures[:10]:
        _print_failure(outcome)


if __name__ == "__main__":
    sys.exit(main())
