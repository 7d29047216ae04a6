"""The record of all numbers: which there are, what they are, and with what they compare."""

import math
import pathlib
import re

import numpy as np
import pytest

from ntk_train import (
    ConventionError,
    CrossEntropy,
    Diagnostics,
    KernelInputError,
    NonFiniteKernelError,
    ReferenceKernels,
    SquaredLoss,
    Training,
    diagnose,
    ntk,
)
from ntk_train.spectrum import critical_learning_rate, kernel_target_alignment
from tests.spectrum import case
from tests.spectrum.test_convention import changed

PARAMS, X = case.make(4, 3)
KERNEL = case.matrix(PARAMS, X).reshape(4, 3, 4, 3)
PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "diagnostics.md").read_text()
NAMESPACE: dict = {}
LABELS = np.array([0, 1, 2, 1])
FULL = changed(num_examples=4, num_outputs=3)


def everything():
    logits = case.f(PARAMS, X)
    return diagnose(
        KERNEL,
        FULL,
        labels=LABELS,
        logits=logits,
        training=Training(CrossEntropy(), learning_rate=0.1, momentum=0.5, batch_size=2),
        layers=ntk(case.f, PARAMS, X, per_layer=True),
        references=ReferenceKernels.start(1.5 * KERNEL, 0, FULL),
        step=5,
        top_k=2,
    )


def test_all_numbers_by_name():
    found = everything().scalars()
    critical = critical_learning_rate(
        KERNEL, CrossEntropy(), logits=case.f(PARAMS, X), momentum=0.5
    )
    assert found["trace"] == pytest.approx(np.trace(case.matrix(PARAMS, X)))
    assert found["kernel_target_alignment"] == kernel_target_alignment(KERNEL, LABELS)
    assert found["critical_learning_rate"] == critical
    assert found["full_batch_learning_rate_ratio"] == 0.1 / critical
    ratio = found["minibatch_learning_rate_ratio"]
    assert ratio * found["minibatch_critical_learning_rate"] == pytest.approx(0.1)
    assert found["relative_change"] == pytest.approx(1 / 3)
    assert found["layer/hidden/trace_share"] + found["layer/out/trace_share"] == pytest.approx(1)
    assert all(type(value) is float for value in found.values())
    assert not any(name.startswith("ntk/") for name in found)


def test_code_in_the_page_runs():
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        exec(compile(block, "diagnostics.md", "exec"), NAMESPACE)
    assert NAMESPACE["predictions"].shape == (16, 3)
    assert np.all(np.isfinite(NAMESPACE["predictions"]))


def test_a_layer_narrower_than_the_outputs_lowers_the_rank():
    params, x = case.make(9, 5, features=20, width=3)
    found = diagnose(case.matrix(params, x).reshape(9, 5, 9, 5))
    assert found.spectrum.numerical_rank == 9 * 5 - (5 - 3) * (9 - 3)


def test_what_is_not_given_is_not_there():
    found = diagnose(KERNEL).scalars()
    assert "kernel_target_alignment" not in found
    assert "critical_learning_rate" not in found
    assert "relative_change" not in found
    assert "entropy_rank" in found


def test_a_traced_kernel_has_no_critical_rate():
    traced = np.einsum("nomo->nm", KERNEL)
    training = Training(SquaredLoss(), learning_rate=0.1)
    assert "critical_learning_rate" not in diagnose(traced, training=training).scalars()
    several = changed(outputs="trace", num_outputs=3, num_examples=4)
    assert "critical_learning_rate" not in diagnose(traced, several, training=training).scalars()
    one = changed(outputs="trace", num_outputs=1, num_examples=4)
    assert "critical_learning_rate" in diagnose(traced, one, training=training).scalars()


def test_a_kernel_of_one_entry_and_of_zeros():
    one = diagnose([[4.0]], labels=np.array([1.0]), top_k=3).scalars()
    assert one["condition_number"] == one["entropy_rank"] == 1
    assert one["top_space_alignment"] == pytest.approx(1)
    zeros = diagnose(np.zeros((3, 3)), labels=np.array([0, 1, 0])).scalars()
    assert math.isnan(zeros["kernel_target_alignment"])
    assert zeros["entropy_rank"] == 0


def test_duplicated_inputs_give_their_rank_and_a_bound():
    x = np.concatenate([X, X[:2]])
    found = diagnose(case.matrix(PARAMS, x).reshape(6, 3, 6, 3)).scalars()
    assert found["numerical_rank"] == 12
    assert found["condition_is_lower_bound"] == 1
    huge = diagnose(case.kernel_with([1e14, 1.0])).scalars()
    assert huge["condition_number"] == pytest.approx(1e14, rel=0.1)


def test_description_states_the_convention_and_the_numbers():
    text = everything().describe()
    for part in ("| outputs | full |", "| examples | independent |", "| entropy_rank |"):
        assert part in text
    assert "No convention is stated" in diagnose(KERNEL).describe()


def test_comparison_within_a_convention_alone():
    one, other = diagnose(KERNEL, FULL), diagnose(2 * KERNEL, FULL)
    pairs = one.compare(other)
    assert pairs["trace"][1] == pytest.approx(2 * pairs["trace"][0])
    assert isinstance(one, Diagnostics)
    for fields in ({"examples": "coupled"}, {"precision": "default"}):
        different = diagnose(KERNEL, changed(num_examples=4, num_outputs=3, **fields))
        with pytest.raises(ConventionError):
            one.compare(different, same_network=False)


def test_what_does_not_fit():
    with pytest.raises(NonFiniteKernelError):
        diagnose(np.full((2, 2), np.nan))
    with pytest.raises(KernelInputError, match="step is None"):
        diagnose(KERNEL, references=ReferenceKernels.start(KERNEL, 0))
    with pytest.raises(KernelInputError, match="logits is None"):
        diagnose(KERNEL, training=Training(CrossEntropy()))
    other = ReferenceKernels.start(KERNEL, 0, changed(outputs="trace"))
    with pytest.raises(ConventionError):
        diagnose(KERNEL, FULL, references=other, step=1)


def test_what_cannot_be_computed_is_left_out_for_a_caller_that_asks_for_it():
    arguments = {
        "labels": LABELS + 1,
        "training": Training(CrossEntropy()),  # without logits
        "layers": ntk(case.f, PARAMS, X, per_layer=True),
        "references": ReferenceKernels.start(1.5 * KERNEL, 0, changed(num_examples=3)),
        "step": 5,
    }
    lost = {}
    found = diagnose(KERNEL, FULL, **arguments, lost=lost.__setitem__).scalars()
    assert {name: type(error) for name, error in lost.items()} == {
        "labels": KernelInputError,
        "training": KernelInputError,
        "references": ConventionError,
    }
    left = dict(arguments, labels=None, training=None, references=None)
    np.testing.assert_equal(found, diagnose(KERNEL, FULL, **left).scalars())
    with pytest.raises(KernelInputError, match="classes 1 to 3"):
        diagnose(KERNEL, FULL, **arguments)
