"""The spectrum against constructed kernels whose eigenvalues are known exactly."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import DtypeError, KernelInputError, NonFiniteKernelError, kernel_spectrum, ntk
from tests import oracle


def kernel_with(eigenvalues, dtype=np.float64):
    n = len(eigenvalues)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))[0]
    return ((basis * eigenvalues) @ basis.T).astype(dtype)


def test_known_eigenvalues():
    found = kernel_spectrum(kernel_with([1.0, 8.0, 2.0, 4.0]))
    np.testing.assert_allclose(found.eigenvalues, [8, 4, 2, 1], rtol=1e-14)
    assert found.eigenvalues.dtype == np.float64
    assert found.lambda_max == pytest.approx(8)
    assert found.lambda_min == pytest.approx(1)
    assert found.condition_number == pytest.approx(8)
    assert not found.condition_is_lower_bound
    assert found.numerical_rank == 4
    assert found.trace == pytest.approx(15)
    assert found.effective_rank == pytest.approx(15**2 / 85)
    assert found.noise_floor == pytest.approx(4 * 2**-52 * 8)


def test_full_kernel_is_a_matrix_of_examples_and_outputs():
    matrix = kernel_with(np.arange(1.0, 7.0))
    full = matrix.reshape(2, 3, 2, 3)
    np.testing.assert_allclose(kernel_spectrum(full).eigenvalues, np.arange(6.0, 0, -1), rtol=1e-13)


def test_duplicated_inputs_give_a_lower_bound_and_the_exact_rank():
    jacobian = np.random.default_rng(0).normal(size=(5, 40))
    jacobian = np.concatenate([jacobian, jacobian[:2]])
    found = kernel_spectrum((jacobian @ jacobian.T).astype(np.float32))
    assert found.numerical_rank == 5
    assert found.condition_is_lower_bound
    assert found.condition_number == pytest.approx(1 / (7 * 2**-23))


def test_floor_follows_the_dtype_of_the_kernel_or_what_is_said():
    eigenvalues = np.array([1.0, 1e-9])
    assert not kernel_spectrum(kernel_with(eigenvalues)).condition_is_lower_bound
    single = jnp.asarray(kernel_with(eigenvalues), jnp.float32)
    assert kernel_spectrum(single).condition_is_lower_bound
    rounded = kernel_spectrum(kernel_with(eigenvalues), eps=2**-11)
    assert rounded.condition_number == pytest.approx(2**10)
    assert rounded.noise_floor == pytest.approx(2**-10)


def test_negative_eigenvalues_are_reported_and_not_clipped():
    found = kernel_spectrum(kernel_with([2.0, -0.5]))
    assert found.lambda_min == pytest.approx(-0.5)
    assert found.condition_number > 0
    assert found.condition_is_lower_bound


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e200, 1e300])
def test_ratios_do_not_depend_on_the_scale(scale):
    found = kernel_spectrum(scale * kernel_with([1.0, 2.0, 3.0]))
    assert found.condition_number == pytest.approx(3)
    assert found.effective_rank == pytest.approx(36 / 14)
    assert found.lambda_max == pytest.approx(3 * scale)


@pytest.mark.parametrize("n", [1, 3, 200])
def test_bounded_numbers_stay_in_their_range_where_the_floor_is_above_all_eigenvalues(n):
    eigenvalues = np.linspace(2, 1, n)
    found = kernel_spectrum(kernel_with(eigenvalues), eps=2**-7)
    expected = min(eigenvalues[0] / eigenvalues[-1], max(1, 2**7 / n))
    assert found.condition_number == pytest.approx(expected)
    assert found.numerical_rank >= 1
    assert 1 <= found.estimated_condition_number <= 2 + 1e-12
    negative = kernel_spectrum(np.diag([2.0, -1.9]))
    assert negative.effective_rank == 1
    assert negative.condition_is_lower_bound


def test_the_estimated_floor_is_what_the_kernel_shows():
    plain = kernel_spectrum(kernel_with([4.0, 3.0, 2.0, 1.0]))
    assert plain.estimated_noise_floor == pytest.approx(2**-52 * np.sqrt(30.0), rel=1e-3)
    assert kernel_spectrum(kernel_with([4.0, 2.0, -0.5])).estimated_noise_floor == pytest.approx(
        0.5
    )
    noise = np.random.default_rng(0).normal(size=(300, 300)) * 1e-5
    skew = (noise - noise.T) / 2
    found = kernel_spectrum(np.eye(300) + skew)
    assert found.estimated_noise_floor == pytest.approx(np.linalg.norm(skew, 2), rel=0.1)
    assert found.noise_floor == pytest.approx(300 * 2**-52)


def deep(params, x):
    for weight in params[:-1]:
        x = jnp.tanh(x @ weight)
    return x @ params[-1]


# Smooth functions of few inputs, whose spectra fall below any floor.
@pytest.mark.parametrize(
    ("n", "features", "width", "outputs", "implementation"),
    [
        (200, 1, 64, 1, "auto"),
        (200, 1, 64, 1, "ntk_vector_products"),
        (200, 1, 128, 1, "jacobian_contraction"),
        (150, 3, 64, 1, "structured"),
        (60, 1, 32, 5, "auto"),
    ],
)
def test_the_estimated_floor_is_the_noise_of_kernels_in_float32(
    n, features, width, outputs, implementation
):
    rng = np.random.default_rng(0)
    sizes = (features, width, width, outputs)
    weights = [rng.normal(size=s) / s[0] ** 0.5 for s in itertools.pairwise(sizes)]
    params = [jnp.asarray(weight, jnp.float32) for weight in weights]
    x = jnp.asarray(rng.normal(size=(n, features)), jnp.float32)
    single = ntk(deep, params, x, implementation=implementation)
    found = kernel_spectrum(single)
    exact = oracle.kernel(deep, params, x, forward=False).reshape(n * outputs, -1)
    values, vectors = np.linalg.eigh(exact)
    floor = found.estimated_noise_floor
    null = vectors[:, values < floor]
    noise = np.linalg.norm(null.T @ (np.asarray(single).reshape(exact.shape) - exact) @ null, 2)
    assert 0.5 < floor / noise < 15  # the guaranteed one is over 1000 times the noise
    clear = found.eigenvalues > 5 * floor
    np.testing.assert_allclose(found.eigenvalues[clear], values[::-1][clear], rtol=0.1)
    assert found.numerical_rank < 0.8 * found.estimated_rank
    assert found.estimated_rank <= np.sum(values > floor / 3)
    assert found.condition_number < 0.01 * found.estimated_condition_number


def test_one_entry_and_zeros():
    one = kernel_spectrum([[5.0]])
    assert (one.condition_number, one.effective_rank, one.numerical_rank) == (1, 1, 1)
    zeros = kernel_spectrum(np.zeros((3, 3)))
    assert math.isnan(zeros.condition_number)
    assert (zeros.effective_rank, zeros.numerical_rank, zeros.trace) == (0, 0, 0)


def test_whole_numbers_and_low_precision():
    assert kernel_spectrum([[2, 0], [0, 1]]).condition_number == 2
    assert kernel_spectrum(jnp.eye(2, dtype=jnp.bfloat16)).noise_floor == 2 * 2**-7


@pytest.mark.parametrize(
    ("kernel", "error", "match"),
    [
        (np.full((2, 2), np.nan), NonFiniteKernelError, "4 NaN or infinite entries of 4"),
        (np.diag([1.0, np.inf]), NonFiniteKernelError, "1 NaN or infinite entries"),
        (np.ones((2, 3)), KernelInputError, r"shape \(2, 3\)"),
        (np.ones((2, 2, 3)), KernelInputError, "diagonal"),
        (np.ones((2, 3, 4, 3)), KernelInputError, "x2=None"),
        (np.ones((0, 0)), KernelInputError, "N, O > 0"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), KernelInputError, "not symmetric"),
        (np.ones((2, 2, 3, 3)), KernelInputError, r"transpose\(0, 2, 1, 3\)"),
        (np.eye(2) * 1j, DtypeError, "complex128"),
    ],
)
def test_what_has_no_spectrum(kernel, error, match):
    with pytest.raises(error, match=match):
        kernel_spectrum(kernel)


def test_without_a_floor_the_condition_number_may_be_infinite():
    assert kernel_spectrum(np.diag([1.0, -0.5]), eps=0.0).condition_number == math.inf


def spoilt(n, o, *rows):
    """The kernel of n examples and o outputs where rows (n, o) of the Jacobian are NaN."""
    jacobian = np.random.default_rng(0).normal(size=(n, o, 7))
    for row in rows:
        jacobian[row] = np.nan
    return np.einsum("now,mpw->nomp", jacobian, jacobian)


@pytest.mark.parametrize(
    ("kernel", "match"),
    [
        (spoilt(6, 1, (1, 0), (4, 0)).reshape(6, 6), r"2 of the 6 examples, at 1, 4 \(from 0\)"),
        (spoilt(5, 3, (2, 1)), r"1 of the 5 examples, at 2 \(from 0\)"),
        (spoilt(5, 3, *((n, 2) for n in range(5))), "each of the 5 examples. Parameters"),
        (spoilt(30, 1, *((n, 0) for n in range(12)))[:, 0, :, 0], "12 of the 30 .* 8, 9, ... "),
        (np.array([[1.0, 0, 0], [0, 1, np.inf], [0, np.inf, 1]]), "2 of the 3 examples, at 1, 2 "),
    ],
)
def test_the_examples_that_make_a_kernel_not_finite_are_named(kernel, match):
    with pytest.raises(NonFiniteKernelError, match=match):
        kernel_spectrum(kernel)
