"""Changes against exact rational arithmetic and known rotations, down to the smallest."""

import decimal
import math

import numpy as np
import pytest

from ntk_train import KernelInputError, NonFiniteKernelError
from ntk_train.spectrum import (
    kernel_distance,
    kernel_velocity,
    principal_angles,
    relative_change,
)
from tests.spectrum.case import kernel_with


def exact_distance(a, b):
    """1 - cos with 60 digits."""
    with decimal.localcontext(prec=60):
        a, b = ([decimal.Decimal(float(v)) for v in m.ravel()] for m in (a, b))
        dot, aa, bb = (sum(u * v for u, v in zip(p, q)) for p, q in ((a, b), (a, a), (b, b)))
        return float(1 - dot / (aa * bb).sqrt())


A = kernel_with([4.0, 3.0, 2.0, 1.0])
B = kernel_with([1.0, 2.0, 3.0, 4.0], seed=1)


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6, 1e-9])
def test_distance_has_correct_digits_where_its_definition_has_none(size):
    other = A + size * (B + B.T) / 2
    expected = exact_distance((A + A.T) / 2, (other + other.T) / 2)
    # Entries are rounded to 1e-16, so a change of relative size s is known to 1e-16 / s.
    assert kernel_distance(A, other) == pytest.approx(expected, rel=1e-12 + 3e-15 / size)
    assert relative_change(other, A) == pytest.approx(
        size * np.linalg.norm(B) / np.linalg.norm(A), rel=1e-12 + 3e-15 / size
    )


@pytest.mark.parametrize("scale", [1e-250, 1e250])
def test_scale_and_permutation(scale):
    order = [2, 0, 3, 1]
    assert kernel_distance(scale * A, B) == pytest.approx(kernel_distance(A, B))
    assert kernel_distance(A[order][:, order], B[order][:, order]) == pytest.approx(
        kernel_distance(A, B)
    )
    assert relative_change(scale * A, scale * B) == pytest.approx(relative_change(A, B))
    assert kernel_distance(A, B) == kernel_distance(B, A)


def test_extremes():
    assert kernel_distance(A, A) == 0
    assert relative_change(A, A) == 0
    assert kernel_distance(np.diag([1.0, 0]), np.diag([0, 1.0])) == pytest.approx(1)
    assert relative_change(3 * A, A) == pytest.approx(2)
    assert kernel_distance([[2.0]], [[5.0]]) == 0
    assert math.isnan(kernel_distance(np.zeros((2, 2)), np.eye(2)))
    assert math.isnan(relative_change(np.eye(2), np.zeros((2, 2))))


def test_velocity_is_distance_per_step():
    assert kernel_velocity(B, A, 5.0) == pytest.approx(exact_distance(A, B) / 5)
    for steps in (0.0, -1.0):
        with pytest.raises(KernelInputError, match="positive number of steps"):
            kernel_velocity(B, A, steps)


@pytest.mark.parametrize("angle", [1e-12, 1e-6, 0.3, math.pi / 4, 1.5, math.pi / 2])
def test_a_known_rotation(angle):
    rotation = np.eye(4)
    c, s = math.cos(angle), math.sin(angle)
    rotation[np.ix_([1, 2], [1, 2])] = [[c, -s], [s, c]]
    old = np.diag([8.0, 4.0, 2.0, 1.0])
    new = rotation @ old @ rotation.T
    found = principal_angles(new, old, 2)
    np.testing.assert_allclose(found, [angle, 0], rtol=1e-7, atol=1e-15)


def test_angles_of_full_kernels_and_of_scaled_ones():
    full = A.reshape(2, 2, 2, 2)
    np.testing.assert_allclose(principal_angles(1e9 * full, full, 2), 0, atol=1e-14)
    np.testing.assert_allclose(principal_angles(A, B, 4), 0, atol=1e-14)
    near = A + B / 20
    assert principal_angles(near, A, 1)[0] == pytest.approx(
        math.acos(abs(np.linalg.eigh(near)[1][:, -1] @ np.linalg.eigh(A)[1][:, -1]))
    )


def test_an_undetermined_space_has_no_rotation():
    double = np.diag([2.0, 2.0, 1.0])
    assert np.all(np.isnan(principal_angles(double, double, 1)))
    np.testing.assert_allclose(principal_angles(double, double, 2), 0, atol=1e-15)
    assert np.all(np.isnan(principal_angles(np.zeros((2, 2)), np.eye(2), 1)))


def test_groups_of_equal_eigenvalues_turn_as_a_whole():
    # Ten heads with nearly the same kernel: within a group of ten any change turns eigenvectors.
    n, o = 12, 10
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, 30)) + 1
    noise = rng.normal(size=(2, n * o, n * o))
    old, new = (
        np.kron(rows @ rows.T, np.eye(o)) + scale * (a + a.T)
        for a, scale in zip(noise, (1e-3, 2e-2), strict=True)
    )
    u, v = (np.linalg.svd(matrix)[0][:, :o] for matrix in (old, new))
    largest = np.arccos(np.linalg.svd(u.T @ v)[1].min())
    single = np.arccos(abs(u[:, 0] @ v[:, 0]))
    assert single > 0.4 > 0.02 > largest
    old, new = old.reshape(n, o, n, o), new.reshape(n, o, n, o)
    assert principal_angles(new, old)[0] == pytest.approx(largest, rel=1e-6)
    assert principal_angles(new, old).shape == (o,)
    assert np.all(np.isnan(principal_angles(new, old, 1)))


def test_a_gap_below_the_change_has_no_rotation_and_a_change_of_scale_is_none():
    old, new = np.diag([1.0, 0.9, 0.1]), np.diag([0.9, 1.0, 0.1])  # exchanged, or turned by pi/2?
    assert principal_angles(new, old, 1)[0] == pytest.approx(math.pi / 2)
    new[2, 2] += 0.3
    assert np.isnan(principal_angles(new, old, 1)[0])
    assert principal_angles(new, old, 2)[0] == 0
    assert principal_angles(1e3 * old, old, 1)[0] == 0


def test_what_does_not_match():
    with pytest.raises(KernelInputError, match=r"shapes \(2, 2\) and \(3, 3\)"):
        relative_change(np.eye(2), np.eye(3))
    with pytest.raises(KernelInputError, match="k=3"):
        principal_angles(np.eye(2), np.eye(2), 3)
    with pytest.raises(NonFiniteKernelError):
        kernel_distance(np.eye(2), np.full((2, 2), np.nan))
