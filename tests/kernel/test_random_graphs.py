"""The kernel of random programs is that of their explicit Jacobian; see tests/programs."""

import pytest

from tests.programs.build import write
from tests.programs.check import all_calls, check
from tests.programs.choices import draw
from tests.programs.failures import FAILURES
from tests.programs.run import run
from tests.programs.shrink import shrink

FEW, MANY = 200, 3000
RUN = "python -m tests.programs --count 1 --seed"  # shrinks it


def assert_agrees(seed, every_call):
    outcome = run(seed, every_call=every_call)
    result = outcome.result
    assert not outcome.broken, outcome.broken
    assert result.verdict == "agrees", (
        f"{RUN} {outcome.seed}: error {result.error:.2g} {result.why} in {result.calls} of\n"
        f"{outcome.text.script()}"
    )


@pytest.mark.parametrize("seed", range(FEW))
def test_a_random_program(seed):
    assert_agrees(seed, every_call=False)


@pytest.mark.heavy
@pytest.mark.parametrize("first", range(FEW, MANY, 50))
def test_every_kernel_of_random_programs(first):
    for seed in range(first, first + 50):
        assert_agrees(seed, every_call=True)


@pytest.mark.parametrize("kept", FAILURES, ids=lambda kept: kept.function.__name__)
def test_a_program_that_was_wrong_once(kept):
    result = check(kept.case(), all_calls(0))
    assert result.verdict == "agrees", result


def test_programs_contain_what_they_are_for():
    features = set().union(*(write(draw(seed)).features for seed in range(FEW)))
    assert features >= {
        "attention",
        "branch",
        "checkpoint",
        "complex value",
        "convolution",
        "custom jvp",
        "custom vjp",
        "embedding",
        "jit",
        "leaf used twice",
        "outputs are a pytree",
        "outputs with None",
        "scan over weights",
        "sealed bottleneck",
        "sealed complex bottleneck",
        "table longer than a narrow index",
        "tied leaf",
        "tokens extreme",
        "tokens int8",
        "tokens uint8",
        "value used twice",
        "written for the batch",
    }


def test_shrinking_leaves_what_fails():
    program, _ = max(
        ((draw(seed), seed) for seed in range(20)), key=lambda pair: len(write(pair[0]).body)
    )
    _, text = shrink(program, lambda text: "p[" in text.body and "x" in text.body, seconds=20)
    assert text.body.count("\n") <= 1
