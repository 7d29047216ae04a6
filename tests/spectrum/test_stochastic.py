"""Trace, density and log-determinant against dense ones, within the errors they state.

An error is one standard deviation, so a result may be off by a few of them; that as many are
further off as it says is tested over many seeds.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import KernelInputError, KernelOperator, NonFiniteKernelError
from ntk_train.spectrum import (
    MatrixOperator,
    operator_trace,
    spectral_density,
    top_eigenvalues,
)
from tests.spectrum import case

EIGENVALUES = 1 + np.linspace(3, 0, 80) ** 2
OPERATOR = MatrixOperator(jnp.asarray(case.kernel_with(EIGENVALUES)))


SPECTRA = {
    "flat": EIGENVALUES,
    "exponential": np.exp(-np.arange(120) / 10),
    "step": np.concatenate([np.ones(20), np.full(130, 1e-3)]),
}
OFF_BY_CHANCE = 0.32  # of a normal distribution, beyond one standard deviation


@pytest.mark.parametrize("name", SPECTRA)
def test_one_trace_in_three_is_further_off_than_its_error(name):
    eigenvalues = SPECTRA[name]
    operator, total = MatrixOperator(jnp.asarray(case.kernel_with(eigenvalues))), eigenvalues.sum()
    found = [operator_trace(operator, key=jax.random.key(seed)) for seed in range(120)]
    share = np.mean([abs(trace.value - total) > trace.error for trace in found])
    assert abs(share - OFF_BY_CHANCE) < 0.13  # three deviations; of XTrace up to 0.78
    assert np.median([trace.error for trace in found]) < 0.1 * total


@pytest.mark.parametrize(
    ("name", "ridge", "steps"),
    [("flat", 0, 15), ("exponential", 1e-2, 10), ("exponential", 1e-3, 20), ("step", 0, 10)],
)
def test_no_more_than_one_log_determinant_in_three_is_further_off_than_its_error(
    name, ridge, steps
):
    eigenvalues = SPECTRA[name]
    operator = MatrixOperator(jnp.asarray(case.kernel_with(eigenvalues)))
    logarithm = np.sum(np.log(eigenvalues + ridge))
    keys = [jax.random.key(seed) for seed in range(50)]
    found = [spectral_density(operator, steps=steps, key=k).log_determinant(ridge) for k in keys]
    off = np.array([estimate.value - logarithm for estimate in found])
    errors = np.array([estimate.error for estimate in found])
    assert np.mean(np.abs(off) > errors) < OFF_BY_CHANCE + 0.2  # three deviations
    assert np.median(errors) < 2 * np.sqrt(np.mean(off**2))


def test_one_count_in_three_is_further_off_than_its_error():
    above = np.sum(EIGENVALUES > 4)
    keys = [jax.random.key(seed) for seed in range(50)]
    found = [spectral_density(OPERATOR, steps=20, key=key).count_above(4.0) for key in keys]
    share = np.mean([abs(count.value - above) > count.error for count in found])
    assert abs(share - OFF_BY_CHANCE) < 0.2


def test_few_steps_leave_a_log_determinant_open_and_bound_that_with_a_ridge():
    eigenvalues = np.exp(-np.arange(120) / 10)
    operator = MatrixOperator(jnp.asarray(case.kernel_with(eigenvalues)))
    found = spectral_density(operator, steps=10)
    assert found.log_determinant().error == math.inf  # it is 150 to 300 off
    estimate = found.log_determinant(1e-3)
    off = abs(estimate.value - np.sum(np.log(eigenvalues + 1e-3)))
    assert off < estimate.error < 0.1 * abs(estimate.value)


def test_an_eigenvalue_at_zero_among_small_ones_is_not_missed():
    eigenvalues = np.linspace(0, 1, 150)
    density = spectral_density(MatrixOperator(jnp.asarray(case.kernel_with(eigenvalues))))
    assert density.nodes[0][0] > density.noise_floor
    assert density.log_determinant().error == math.inf
    found = density.log_determinant(1e-3)
    assert abs(found.value - np.sum(np.log(eigenvalues + 1e-3))) < 3 * found.error
    assert found.error < 0.2 * abs(found.value)


@pytest.mark.parametrize("scale", [1e-25, 1e15])
def test_scale_in_single_precision(scale):
    operator = MatrixOperator(scale * OPERATOR.matrix.astype(jnp.float32))
    trace = operator_trace(operator)
    assert abs(trace.value - scale * EIGENVALUES.sum()) < 5 * trace.error
    found = spectral_density(operator).log_determinant()
    expected = np.sum(np.log(scale) + np.log(EIGENVALUES))
    assert abs(found.value - expected) < 5 * found.error


def test_the_trace_of_a_low_rank_is_exact():
    low = MatrixOperator(jnp.asarray(case.kernel_with([5.0, 2, 1, *[0] * 77])))
    assert operator_trace(low, probes=10).value == pytest.approx(8, rel=1e-12)
    assert operator_trace(low, probes=50).value == pytest.approx(8, rel=1e-12)


def test_density_integrates_to_the_number_of_eigenvalues_and_follows_them():
    density = spectral_density(OPERATOR)
    grid = np.linspace(-5, 15, 2001)
    found = density.density(grid, 0.5)
    assert np.trapezoid(found, grid) == pytest.approx(80, rel=1e-6)
    smeared = np.exp(-(((grid[:, None] - EIGENVALUES) / 0.5) ** 2) / 2).sum(axis=1)
    smeared /= 0.5 * math.sqrt(2 * math.pi)
    assert np.trapezoid(np.abs(found - smeared), grid) < 0.2 * 80


def test_a_ridge_makes_a_singular_kernel_regular():
    eigenvalues = np.array([5.0, 2.0, 1.0, *[0.0] * 77])
    density = spectral_density(MatrixOperator(jnp.asarray(case.kernel_with(eigenvalues))))
    assert density.log_determinant().value == -math.inf
    found = density.log_determinant(ridge=0.1)
    assert abs(found.value - np.sum(np.log(eigenvalues + 0.1))) < 4 * found.error
    with pytest.raises(KernelInputError, match="ridge=-1"):
        density.log_determinant(-1.0)


def test_multiples_of_the_identity_have_no_error():
    density = spectral_density(MatrixOperator(3 * jnp.eye(80)))
    found = density.log_determinant()
    assert found.value == pytest.approx(80 * math.log(3))
    assert found.error < 1e-10
    one = MatrixOperator(jnp.array([[2.0]]))
    assert spectral_density(one).log_determinant().value == pytest.approx(math.log(2))
    assert operator_trace(one).value == pytest.approx(2)
    zeros = MatrixOperator(jnp.zeros((80, 80)))
    assert operator_trace(zeros, probes=10).value == 0
    assert spectral_density(zeros).log_determinant().value == -math.inf


def test_what_cannot_be_done():
    with pytest.raises(NonFiniteKernelError):
        spectral_density(MatrixOperator(jnp.full((80, 80), jnp.inf, jnp.float64)))
    with pytest.raises(NonFiniteKernelError):
        operator_trace(MatrixOperator(jnp.full((80, 80), jnp.nan, jnp.float64)), probes=10)
    for call in (spectral_density, operator_trace):
        with pytest.raises(KernelInputError, match="probes=1"):
            call(OPERATOR, probes=1)


def check_a_network(n, o, width, chunk):
    params, x = case.make(n, o, features=40, width=width)
    matrix = case.matrix(params, x)
    eigenvalues = np.linalg.eigvalsh(matrix)[::-1]
    operator = KernelOperator(case.f, params, x, chunk=chunk)
    top = top_eigenvalues(operator, 3)
    assert np.all(np.abs(top.values - eigenvalues[:3]) <= top.errors + 1e-9 * eigenvalues[0])
    assert top.errors[0] < 1e-4 * eigenvalues[0]
    trace = operator_trace(operator)
    assert abs(trace.value - np.trace(matrix)) < 4 * trace.error
    assert trace.error < 0.05 * trace.value
    density = spectral_density(operator, steps=40)
    ridge = 1e-3 * eigenvalues[0]
    found = density.log_determinant(ridge)
    assert abs(found.value - np.sum(np.log(eigenvalues + ridge))) < 4 * found.error
    assert found.error < 0.1 * abs(found.value)
    count = density.count_above(10 * ridge)
    assert abs(count.value - np.sum(eigenvalues > 10 * ridge)) < 4 * count.error + 0.02 * n * o


def test_a_small_network():
    check_a_network(20, 5, width=30, chunk=6)


@pytest.mark.heavy
def test_a_network_with_2000_outputs():
    check_a_network(200, 10, width=200, chunk=50)
