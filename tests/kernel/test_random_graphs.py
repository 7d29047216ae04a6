"""The kernel of random programs is that of their explicit Jacobian; see tests/programs."""

import itertools
import math

import pytest

from tests.programs.build import write
from tests.programs.check import MODES, Call, check, drop_in_calls
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


@pytest.mark.parametrize("seed", range(8))
def test_axes_of_the_drop_in(seed):
    """Outputs of 2 to 4 axes; every other program has a bottleneck that invites a cut."""
    bottleneck = {"sealed bottleneck", "sealed complex bottleneck"}
    for i in itertools.count(1000 * seed):
        text = write(draw(i))
        if not text.features & {"output of 2 axes", "output of 3 axes"}:
            continue
        if seed % 2 and not text.features & bottleneck:
            continue
        result = check(text.case(), drop_in_calls(seed))
        if result.verdict != "rejected":
            break
    assert result.verdict == "agrees", f"{result}\n{text.script()}"


@pytest.mark.parametrize("kept", FAILURES, ids=lambda kept: kept.function.__name__)
def test_a_program_that_was_wrong_once(kept):
    calls = [Call(mode, i % 2 > 0) for i, mode in enumerate(MODES)]
    calls += [Call("full", True), Call("sum", True, "auto")]
    result = check(kept.case(), calls)
    assert result.verdict == "agrees", result


def test_programs_contain_what_they_are_for():
    features = set().union(*(write(draw(seed)).features for seed in range(80)))
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


def _is_long(text):
    return text.body.count("\n") > 4 and "jnp." in text.body


def test_shrinking_leaves_what_fails():
    program = next(p for p in map(draw, range(50)) if _is_long(write(p)) and len(p.nodes) < 6)
    _, text = shrink(program, lambda text: "jnp." in text.body, seconds=math.inf)
    assert text.body.count("\n") <= 2
    assert "jnp." in text.body
