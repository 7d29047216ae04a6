"""Trace, density and log-determinant against dense ones, within the errors they state.

An error is one standard deviation, so a result may be off by a few of them; that errors are neither
too small nor idly large is tested over many seeds.
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


def test_errors_are_those_that_occur():
    logarithm, total = np.sum(np.log(EIGENVALUES)), np.sum(EIGENVALUES)
    above = np.sum(EIGENVALUES > 4)
    off = []
    for seed in range(12):
        key = jax.random.key(seed)
        density = spectral_density(OPERATOR, key=key)
        found = density.log_determinant()
        trace = operator_trace(OPERATOR, probes=10, key=key)
        count = density.count_above(4.0)
        off.append(
            [
                (found.value - logarithm) / found.error,
                (trace.value - total) / trace.error,
                (count.value - above) / count.error,
            ]
        )
        assert found.error < 0.05 * abs(logarithm)
        assert trace.error < 0.05 * total
    size = np.sqrt(np.mean(np.square(off), axis=0))
    assert np.all(size < 2), size
    assert np.all(size > 0.3), size


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
