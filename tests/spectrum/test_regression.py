"""Solves by products alone against dense ones."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import KernelInputError, KernelOperator, NonFiniteKernelError, SquaredLoss
from ntk_train.spectrum import LinearisedTraining, MatrixOperator, gradient_flow, kernel_ridge
from tests import oracle
from tests.spectrum import case

N, OUTPUTS = 8, 2
PARAMS, X = case.make(N, OUTPUTS)
TEST_X = case.make(3, OUTPUTS, seed=5)[1]
KERNEL, CROSS = oracle.kernel(case.f, PARAMS, X), oracle.kernel(case.f, PARAMS, TEST_X, X)
START, TEST_START = np.asarray(case.f(PARAMS, X)), np.asarray(case.f(PARAMS, TEST_X))
TARGETS = np.random.default_rng(0).normal(size=(N, OUTPUTS))
OPERATOR = KernelOperator(case.f, PARAMS, X, chunk=3)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_ridge_regression_is_the_dense_solution(ridge):
    found = kernel_ridge(OPERATOR, TARGETS - START, ridge=ridge, rtol=1e-12)
    theta = KERNEL.reshape(N * OUTPUTS, -1) + ridge * np.eye(N * OUTPUTS)
    expected = np.linalg.solve(theta, (TARGETS - START).ravel())
    np.testing.assert_allclose(found.coefficients.ravel(), expected, rtol=1e-5, atol=1e-7)
    assert found.error < 1e-10
    predictions = TEST_START + OPERATOR.cross(found.coefficients, TEST_X)
    dense = TEST_START + (CROSS.reshape(3 * OUTPUTS, -1) @ expected).reshape(3, OUTPUTS)
    np.testing.assert_allclose(predictions, dense, rtol=1e-6, atol=1e-7)


def test_a_solve_that_was_cut_short_says_how_far_it_came():
    found = kernel_ridge(OPERATOR, TARGETS - START, rtol=1e-12, max_steps=2)
    left = TARGETS - START - np.einsum("nomp,mp->no", KERNEL, found.coefficients)
    expected = np.linalg.norm(left) / np.linalg.norm(TARGETS - START)
    assert found.error == pytest.approx(expected, rel=1e-8)
    assert found.error > 1e-3
    assert found.steps == 2


@pytest.mark.parametrize("rate", [None, 0.05])
@pytest.mark.parametrize("time", [1, 20])
def test_gradient_flow_is_the_dense_one(rate, time):
    loss = SquaredLoss(mean="examples")
    dense = LinearisedTraining(KERNEL, START, TARGETS, loss, rate)
    found = gradient_flow(OPERATOR, TARGETS - START, loss, time, learning_rate=rate)
    train = START + OPERATOR.matvec(found.coefficients)
    np.testing.assert_allclose(train, dense.train_outputs(time), rtol=1e-7, atol=1e-9)
    test = TEST_START + OPERATOR.cross(found.coefficients, TEST_X)
    expected = dense.test_outputs(time, CROSS, TEST_START)
    np.testing.assert_allclose(test, expected, rtol=1e-7, atol=1e-9)


def test_few_steps_state_a_large_error():
    eigenvalues = np.arange(1, 61.0) ** -2
    operator = MatrixOperator(jnp.asarray(case.kernel_with(eigenvalues)))
    residual = jnp.ones(60)
    loss = SquaredLoss(mean="none")
    values, vectors = np.linalg.eigh(operator.matrix)
    exact = vectors @ (-np.expm1(-100 * values) / values * (vectors.T @ residual))
    errors = []
    for steps in (5, 20, 60):
        found = gradient_flow(operator, residual, loss, 100, steps=steps)
        off = np.linalg.norm(found.coefficients - exact) / np.linalg.norm(exact)
        assert off <= 20 * found.error + 1e-9
        errors.append(off)
    assert errors[0] > 1e-3
    assert errors[2] < 1e-9


def test_long_times_tend_to_the_ridgeless_solution():
    solved = kernel_ridge(OPERATOR, TARGETS - START, rtol=1e-12).coefficients
    flow = gradient_flow(OPERATOR, TARGETS - START, SquaredLoss(), 1e8).coefficients
    np.testing.assert_allclose(flow, solved, rtol=1e-4, atol=1e-6)


def test_nothing_to_learn_and_what_does_not_fit():
    zero = jnp.zeros((N, OUTPUTS))
    assert not np.any(gradient_flow(OPERATOR, zero, SquaredLoss(), 1.0).coefficients)
    assert kernel_ridge(OPERATOR, zero, rtol=1e-12).error == 0
    with pytest.raises(KernelInputError, match=r"takes \(8, 2\)"):
        kernel_ridge(OPERATOR, jnp.zeros(8))
    with pytest.raises(KernelInputError, match="ridge=-1"):
        kernel_ridge(OPERATOR, zero, ridge=-1.0)
    broken = MatrixOperator(jnp.full((60, 60), jnp.nan, jnp.float64))
    with pytest.raises(NonFiniteKernelError):
        gradient_flow(broken, jnp.ones(60), SquaredLoss(), 1.0)


def test_the_error_without_the_extra_says_what_to_install(monkeypatch):

    monkeypatch.setitem(sys.modules, "lineax", None)
    monkeypatch.setitem(sys.modules, "matfree.decomp", None)
    for call in (
        lambda: kernel_ridge(MatrixOperator(jnp.eye(11)), jnp.ones(11)),
        lambda: gradient_flow(MatrixOperator(jnp.eye(11)), jnp.ones(11), SquaredLoss(), 1.0),
    ):
        with pytest.raises(ModuleNotFoundError, match=r"ntk_train\[operator\]"):
            call()
