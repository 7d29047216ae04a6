"""The reference kernels of a run, and that a resumed run continues exactly."""

import math

import numpy as np
import pytest

from ntk_train import ConventionError, KernelInputError, ReferenceKernels
from ntk_train.spectrum import kernel_distance, principal_angles, relative_change
from tests.spectrum.case import kernel_with
from tests.spectrum.test_convention import CONVENTION, changed

KERNELS = [
    (kernel_with([4.0, 2.0, 0.5]) + kernel_with([0.2, 0.1, 0.0], seed=t)).astype(np.float32)
    for t in range(4)
]


def test_numbers_are_those_of_the_pairs():
    references = ReferenceKernels.start(KERNELS[0], 10, CONVENTION)
    references = references.advance(KERNELS[1], 20, CONVENTION)
    found = references.scalars(KERNELS[2], 25, CONVENTION, top_k=2)
    assert found == {
        "relative_change": relative_change(KERNELS[2], KERNELS[0]),
        "kernel_distance": kernel_distance(KERNELS[2], KERNELS[0]),
        "kernel_velocity": kernel_distance(KERNELS[2], KERNELS[1]) / 5,
        "rotation": principal_angles(KERNELS[2], KERNELS[0], 2)[0],
        "rotation_since_previous": principal_angles(KERNELS[2], KERNELS[1], 2)[0],
    }
    assert references.initial_step == 10


def test_the_first_kernel_has_not_changed():
    references = ReferenceKernels.start(KERNELS[0], 10)
    found = references.scalars(KERNELS[0], 10)
    assert math.isnan(found.pop("kernel_velocity"))
    assert all(abs(value) < 1e-14 for value in found.values())


@pytest.mark.parametrize("convention", [None, CONVENTION])
def test_a_resumed_run_continues_to_the_last_bit(tmp_path, convention):
    references = ReferenceKernels.start(KERNELS[0], 0, convention).advance(
        KERNELS[1], 7, convention
    )
    np.savez(tmp_path / "kept.npz", **references.to_dict())
    with np.load(tmp_path / "kept.npz", allow_pickle=False) as kept:
        resumed = ReferenceKernels.from_dict(kept)
    for kernel, step in ((KERNELS[2], 9), (KERNELS[3], 11)):
        there = resumed.scalars(kernel, step, convention)
        assert there == references.scalars(kernel, step, convention)
        references = references.advance(kernel, step, convention)
        resumed = resumed.advance(kernel, step, convention)
    assert resumed.convention == convention
    assert resumed.initial.dtype == np.float32


def test_a_kernel_kept_is_not_changed_with_the_callers_array():
    kernel = KERNELS[0].copy()
    references = ReferenceKernels.start(kernel, 0)
    kernel[:] = 0
    np.testing.assert_array_equal(references.initial, KERNELS[0])


def test_another_convention_is_refused():
    references = ReferenceKernels.start(KERNELS[0], 0, CONVENTION)
    other = changed(outputs="trace")
    with pytest.raises(ConventionError, match=r"outputs='full'.*outputs='trace'"):
        references.scalars(KERNELS[1], 1, other)
    with pytest.raises(ConventionError):
        references.advance(KERNELS[1], 1, other)
    with pytest.raises(ConventionError, match="states no convention"):
        references.advance(KERNELS[1], 1)


def test_an_incomplete_checkpoint_is_refused():
    arrays = ReferenceKernels.start(KERNELS[0], 0).to_dict()
    del arrays["previous"]
    with pytest.raises(KernelInputError, match="previous"):
        ReferenceKernels.from_dict(arrays)
