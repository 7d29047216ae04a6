"""Solves by products alone against dense ones."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import (
    ConvergenceWarning,
    KernelInputError,
    KernelOperator,
    NonFiniteKernelError,
    SquaredLoss,
)
from ntk_train.data.digits import load_digits
from ntk_train.models.fcn import FCN
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
    with pytest.warns(ConvergenceWarning, match=r"in 2 steps, above rtol=1e-12; .* max_steps=2"):
        found = kernel_ridge(OPERATOR, TARGETS - START, rtol=1e-12, max_steps=2)
    left = TARGETS - START - np.einsum("nomp,mp->no", KERNEL, found.coefficients)
    expected = np.linalg.norm(left) / np.linalg.norm(TARGETS - START)
    assert found.error == pytest.approx(expected, rel=1e-8)
    assert found.error > 1e-3
    assert found.steps == 2


@pytest.mark.parametrize(("scale", "size"), [(1, 1), (1e-3, 1), (1e-25, 1e-20), (1e20, 1)])
def test_ridge_regression_in_single_precision_does_not_depend_on_the_scale(scale, size):
    eigenvalues = np.linspace(1, 2, 100)
    operator = MatrixOperator(scale * jnp.diag(jnp.asarray(eigenvalues, jnp.float32)))
    found = kernel_ridge(operator, np.full(100, size))
    assert found.error < 1e-5
    left = 1 - eigenvalues * (np.asarray(found.coefficients, float) * scale / size)
    assert np.linalg.norm(left) / 10 == pytest.approx(found.error, abs=1e-6)
    assert found.steps < 15


def test_ridge_regression_of_a_network_in_single_precision():
    images = load_digits(classes=None).train.images[:40]
    model = FCN(widths=(64, 64, 64))
    params = model.init(jax.random.key(0), images)["params"]
    f = functools.partial(_apply, model)
    targets = np.random.default_rng(0).normal(size=(40, 10))
    found = kernel_ridge(KernelOperator(f, params, jnp.asarray(images)), targets, ridge=0.1)
    exact_model = FCN(widths=(64, 64, 64), param_dtype="float64")
    kernel = oracle.kernel(functools.partial(_apply, exact_model), params, images)
    theta = kernel.reshape(400, 400) + 0.1 * np.eye(400)
    left = targets.ravel() - theta @ np.asarray(found.coefficients, float).ravel()
    assert found.error <= 1e-5
    assert np.linalg.norm(left) / np.linalg.norm(targets) < 1e-4  # with the kernel's own rounding
    assert found.steps < 1000  # 400 in float64; lineax took all 4000


def _apply(model, params, x):
    return model.apply({"params": params}, x)


def test_a_kernel_that_is_too_singular_for_its_dtype_gets_the_best_iterate_and_a_warning():
    eigenvalues = np.logspace(0, -12, 60)
    matrix = case.kernel_with(eigenvalues).astype(np.float32)
    residual = np.random.default_rng(1).normal(size=60)
    with pytest.warns(ConvergenceWarning, match=r"above rtol=1e-05"):
        found = kernel_ridge(MatrixOperator(jnp.asarray(matrix)), residual)
    left = residual - matrix.astype(float) @ np.asarray(found.coefficients, float)
    expected = np.linalg.norm(left) / np.linalg.norm(residual)
    assert found.error == pytest.approx(expected, rel=0.2)
    assert expected < 0.7


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


def exact_flow(eigenvalues, vectors, residual, time, rate):
    """Coefficients from the eigenvalues, by sums of powers where they would cancel."""
    x = np.maximum(eigenvalues, 1e-300)
    if rate is None:
        gain = -np.expm1(-time * x) / x
    else:
        small = rate * x < 0.5
        slow = -np.expm1(time * np.log1p(-np.where(small, rate * x, 0))) / x
        gain = np.where(small, slow, (1 - (1 - rate * x) ** time) / x)
    return vectors @ (gain * (vectors.T @ residual))


FLOW_SPECTRA = {
    "power law": np.arange(1, 101.0) ** -2,
    "dense tail": np.linspace(1, 1e-3, 100),
    "gap": np.concatenate([[1e3], np.full(5, 1e2), np.arange(1, 95.0) ** -0.7]),
    "singular": np.concatenate([np.linspace(1, 0.01, 70), np.zeros(30)]),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FLOW_SPECTRA)
def test_gradient_flow_is_never_further_off_than_its_error(name, dtype):
    eigenvalues = FLOW_SPECTRA[name]
    top = eigenvalues.max()
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(100, 100)))[0]
    operator = MatrixOperator(jnp.asarray((basis * eigenvalues) @ basis.T, dtype))
    loss, over = SquaredLoss(mean="none"), []
    for seed, steps in enumerate((3, 10, 40, 100)):
        residual = np.random.default_rng(seed).normal(size=100)
        for factor in (None, 0.1, 0.9, 1.5, 1.99):
            for time in (1, 30, 1000, 100_000):
                rate = None if factor is None else factor / top
                time = time / top if factor is None else min(time, 3000)
                expected = exact_flow(eigenvalues, basis, residual, time, rate)
                found = gradient_flow(
                    operator, residual, loss, time, learning_rate=rate, steps=steps
                )
                off = np.linalg.norm(found.coefficients - expected) / np.linalg.norm(expected)
                assert off <= found.error + 1e-12, (steps, factor, time)
                if 1e-3 < off < 0.5:
                    over.append(found.error / off)
    assert np.median(over) < 100  # an upper bound, but one that says something


def test_gradient_flow_of_a_residual_whose_square_is_below_single_precision():
    operator = MatrixOperator(jnp.diag(jnp.array([2.0, 1.0], jnp.float32)))
    found = gradient_flow(operator, [1e-25, 1e-25], SquaredLoss(mean="none"), 1.0)
    expected = -np.expm1([-2.0, -1.0]) / [2.0, 1.0] * 1e-25
    np.testing.assert_allclose(found.coefficients, expected, rtol=1e-5)


def test_few_steps_state_a_large_error_and_all_of_them_a_small_one():
    eigenvalues = np.arange(1, 61.0) ** -2
    operator = MatrixOperator(jnp.asarray(case.kernel_with(eigenvalues)))
    loss, residual = SquaredLoss(mean="none"), jnp.ones(60)
    few, all_ = (gradient_flow(operator, residual, loss, 100, steps=steps) for steps in (5, 60))
    assert few.error > 0.01
    assert all_.error < 1e-9
    assert gradient_flow(operator, residual, loss, np.inf, steps=5).error == np.inf
    assert gradient_flow(operator, residual, loss, 100, learning_rate=2.5, steps=5).error == np.inf
    assert gradient_flow(operator, residual, loss, 0).error == 0


def test_long_times_tend_to_the_ridgeless_solution():
    solved = kernel_ridge(OPERATOR, TARGETS - START, rtol=1e-12).coefficients
    flow = gradient_flow(OPERATOR, TARGETS - START, SquaredLoss(), 1e8).coefficients
    np.testing.assert_allclose(flow, solved, rtol=1e-4, atol=1e-6)


def test_nothing_to_learn_and_what_does_not_fit():
    zero = jnp.zeros((N, OUTPUTS))
    assert not np.any(gradient_flow(OPERATOR, zero, SquaredLoss(), 1.0).coefficients)
    assert kernel_ridge(OPERATOR, zero, rtol=1e-12).error == 0
    null = MatrixOperator(jnp.diag(jnp.array([1.0, 0.0])))
    with pytest.warns(ConvergenceWarning):
        assert kernel_ridge(null, jnp.array([0.0, 1.0])).error == 1
    with pytest.raises(KernelInputError, match=r"takes \(8, 2\)"):
        kernel_ridge(OPERATOR, jnp.zeros(8))
    with pytest.raises(KernelInputError, match="ridge=-1"):
        kernel_ridge(OPERATOR, zero, ridge=-1.0)
    broken = MatrixOperator(jnp.full((60, 60), jnp.nan, jnp.float64))
    for call in (
        lambda: kernel_ridge(broken, jnp.ones(60)),
        lambda: gradient_flow(broken, jnp.ones(60), SquaredLoss(), 1.0),
    ):
        with pytest.raises(NonFiniteKernelError):
            call()


def test_the_error_without_the_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matfree.decomp", None)
    with pytest.raises(ModuleNotFoundError, match=r"ntk_train\[operator\]"):
        gradient_flow(MatrixOperator(jnp.eye(11)), jnp.ones(11), SquaredLoss(), 1.0)
