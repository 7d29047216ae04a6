"""Does the drop-in pass the tests that neural-tangents 0.6.5 has for its own implementation?

Runs test files of the peer out of a checkout of its repository at tag v0.6.5, of which nothing is
kept here, twice: as they are, and with `empirical_ntk_fn`, `empirical_ntk_vp_fn` and
`NtkImplementation` replaced by ours in all of the peer's modules. Prints how many tests pass, fail
and are skipped, and why those fail that do; `--save` keeps the outcome of each. It fails itself
where the drop-in fails a test that the peer passes, but for those that differ on purpose.

    pip install absl-py frozendict more_itertools pytest
    python -m experiments.peer_tests CHECKOUT --cases 300 --select test_function --save
    python -m experiments.peer_tests CHECKOUT --cases 12 --select "not test_function" --save

Like `compare_neural_tangents`, this needs `nt_shim.py` on PYTHONPATH with a current release of JAX.

The peer draws the cases of a test from a grid, the same ones in each run; `test_function` is of
random programs, all kernels of which have to agree between the implementations. The first command
takes 10 minutes on two cores, the second 20; `--select` and `--shard` take a part, and parts add up
in the kept table. What the peer skips on a CPU for its size runs with `--large`. `rules_test.py`
is about rules inside of the peer that the drop-in has no counterpart of: it tells what fails with
this release of JAX in any case.
"""

import argparse
import collections
import concurrent.futures
import importlib
import importlib.util
import multiprocessing
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import pytest

import ntk_train
from experiments.record import merge_table

FILES = ("empirical_test.py", "rules_test.py")
WORSE = ("passed", "failed")  # with the peer, with ours
REPLACED = ("empirical_ntk_fn", "empirical_ntk_vp_fn", "NtkImplementation")

# Tests that the drop-in is not to pass, by a part of the name, and why.
ON_PURPOSE = {
    "test_resnet18": (
        "passes all variables of a Flax model as parameters, and so would differentiate running "
        "statistics: the drop-in refuses them and says to close f over them"
    ),
}


class Outcome(NamedTuple):
    """Of one test: its arguments; whether it passed, failed or was skipped; and in short why."""

    arguments: str
    outcome: str
    why: str


class Settings(NamedTuple):
    """What to run.

    Attributes:
      checkout: folder of the peer's repository.
      files: of its tests.
      cases: at most so many cases of each of its tests.
      select: an expression for names of tests, as `pytest -k` takes it.
      shard: which part of how many; (0, 1) is everything.
      large: run what the peer skips on a CPU.
    """

    checkout: pathlib.Path
    files: Sequence[str]
    cases: int
    select: str
    shard: tuple[int, int]
    large: bool


class Recorder:
    """A pytest plugin that runs the tests of one shard and keeps their outcomes by name."""

    def __init__(self, shard: tuple[int, int]) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._shard = shard
        self._arguments: dict[str, str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leaves the tests of the shard out of those selected."""
        part, parts = self._shard
        items[:] = items[part::parts]
        for item in items:
            arguments = getattr(item.function, "__x_params_repr__", "")
            self._arguments[item.nodeid] = " ".join(arguments.split())

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keeps the outcome of a test, or of what went wrong before or after it."""
        if report.when != "call" and report.passed:
            return
        why = report.longrepr[2] if report.skipped else ""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message if crash else str(report.longrepr)
        why = "; ".join(line.strip() for line in why.splitlines() if line.strip())[:160]
        name = report.nodeid.removeprefix("tests/")
        arguments = self._arguments[report.nodeid]
        self.outcomes[name] = Outcome(arguments, report.outcome, why)
        print(f"{name} {report.outcome} in {report.duration:.1f} s {why}", flush=True)


def outcomes(library: str, settings: Settings) -> dict[str, Outcome]:
    """Runs the tests with "peer" or "ours"; changes modules and so needs its own process."""
    checkout = str(settings.checkout)
    os.chdir(checkout)
    sys.path.insert(0, checkout)
    os.environ["NT_NUM_GENERATED_CASES"] = str(settings.cases)
    if importlib.util.find_spec("nt_shim"):
        importlib.import_module("nt_shim")
    if not hasattr(jax, "tree_map"):  # the tests import it
        jax.tree_map = jax.tree.map  # type: ignore[attr-defined]
    if library == "ours":
        replace_implementation()
    if settings.large:
        test_utils: Any = importlib.import_module("tests.test_utils")
        test_utils.skip_test = lambda *_, **__: None
    recorder = Recorder(settings.shard)
    options = ["-p", "no:cacheprovider", "-p", "no:terminal", "-k", settings.select]
    files = [f"{checkout}/tests/{name}" for name in settings.files]
    code = pytest.main([f"--rootdir={checkout}", *options, *files], plugins=[recorder])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        msg = f"pytest ended with {code!r}"
        raise RuntimeError(msg)
    return recorder.outcomes


def replace_implementation() -> None:
    """Puts the drop-in in the place of the peer's functions, wherever it has imported them."""
    importlib.import_module("neural_tangents")
    peer = importlib.import_module("neural_tangents._src.empirical")
    for name in REPLACED:
        theirs, ours = getattr(peer, name), getattr(ntk_train, name)
        ours = _without_switches(ours) if name == "empirical_ntk_fn" else ours
        for module_name, module in list(sys.modules.items()):
            if module_name.partition(".")[0] == "neural_tangents":
                for key, value in list(vars(module).items()):
                    if value is theirs:
                        setattr(module, key, ours)


def _without_switches(ours: Any) -> Any:
    """The drop-in, which takes and leaves aside the peer's private switches of its own rules."""

    def empirical_ntk_fn(*args: Any, **kwargs: Any) -> Any:
        for switch in ("_j_rules", "_s_rules", "_fwd"):
            kwargs.pop(switch, None)
        return ours(*args, **kwargs)

    return empirical_ntk_fn


def both(settings: Settings) -> tuple[dict[str, Outcome], dict[str, Outcome]]:
    """The outcomes of the peer and of ours, each from a fresh process."""
    results = []
    for library in ("peer", "ours"):
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
            results.append(executor.submit(outcomes, library, settings).result())
    return results[0], results[1]


def summary(library: str, results: Mapping[str, Outcome]) -> Iterator[str]:
    """A line for each class of tests: how many have which outcome."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for name, result in results.items():
        counts[name.rpartition("::")[0]][result.outcome] += 1
    for group, of_group in counts.items():
        numbers = ", ".join(f"{of_group[word]} {word}" for word in ("passed", "failed", "skipped"))
        yield f"{library}: {group}: {numbers}"


def reason(name: str) -> str:
    """Why the drop-in is not to pass a test, or nothing."""
    return next((why for part, why in ON_PURPOSE.items() if part in name), "")


def main() -> None:
    """Runs, prints and keeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=pathlib.Path, help="of the peer's repository")
    parser.add_argument("--files", nargs="+", default=FILES, help="of the peer's tests")
    parser.add_argument("--cases", type=int, default=4, help="of each test at most; the peer has 4")
    parser.add_argument("--select", default="", help="names of tests, as pytest -k takes them")
    parser.add_argument("--shard", default="0/1", help="the part i/n of the tests, from 0/n")
    parser.add_argument("--large", action="store_true", help="run what is skipped on a CPU too")
    parser.add_argument("--save", action="store_true", help="keep the outcomes")
    given = parser.parse_args()
    part, _, parts = given.shard.partition("/")
    settings = Settings(
        given.checkout.absolute(),
        given.files,
        given.cases,
        given.select,
        (int(part), int(parts)),
        given.large,
    )
    peer, ours = both(settings)
    print(*summary("peer", peer), *summary("ours", ours), sep="\n")
    worse = [name for name in peer if (peer[name].outcome, ours[name].outcome) == WORSE]
    for name in worse:
        print(f"{name} {ours[name].arguments}\n  fails: {ours[name].why}")
        print(f"  on purpose: {reason(name)}" if reason(name) else "  which is not on purpose")
    if given.save:
        rows = [
            {
                "cases": given.cases,
                "test": name,
                "peer": peer[name].outcome,
                "ours": ours[name].outcome,
                "why": ours[name].why or peer[name].why,
                "on_purpose": reason(name) if name in worse else "",
            }
            for name in peer
        ]
        merge_table("peer_tests", rows, ("cases", "test"))
    if not all(map(reason, worse)):
        sys.exit("The drop-in fails tests that the peer passes.")


if __name__ == "__main__":
    main()
