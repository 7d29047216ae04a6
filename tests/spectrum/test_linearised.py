"""Linearised training against the ODE and descent that it solves, and against a real run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import expm

from ntk_train import KernelInputError, SquaredLoss
from ntk_train.spectrum import LinearisedTraining, loss_departure
from tests import oracle
from tests.spectrum import case

N, OUTPUTS = 4, 2
PARAMS, X = case.make(N, OUTPUTS)
TEST_X = case.make(3, OUTPUTS, seed=5)[1]
J, J_TEST = oracle.jacobian(case.f, PARAMS, X), oracle.jacobian(case.f, PARAMS, TEST_X)
KERNEL, CROSS = oracle.contract(J, J), oracle.contract(J_TEST, J)
START, TEST_START = np.asarray(case.f(PARAMS, X)), np.asarray(case.f(PARAMS, TEST_X))
TARGETS = np.random.default_rng(0).normal(size=(N, OUTPUTS))
LOSSES = [SquaredLoss(True, "none"), SquaredLoss(False, "examples"), SquaredLoss(True, "entries")]


def value(loss, outputs):
    total = np.sum((np.asarray(outputs) - TARGETS) ** 2) / (2 if loss.half else 1)
    return total / {"none": 1, "examples": N, "entries": N * OUTPUTS}[loss.mean]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("time", [0.0, 5.0])
def test_gradient_flow_is_the_matrix_exponential(loss, time):
    model = LinearisedTraining(KERNEL, START, TARGETS, loss)
    theta = KERNEL.reshape(N * OUTPUTS, -1)
    h = float(jax.hessian(lambda y: _value(loss, y))(jnp.asarray(START))[0, 0, 0, 0])
    decay = np.asarray(expm(-time * h * theta))
    residual = (TARGETS - START).ravel()
    expected = TARGETS.ravel() - decay @ residual
    np.testing.assert_allclose(model.train_outputs(time).ravel(), expected, rtol=1e-9)
    assert model.loss(time) == pytest.approx(value(loss, expected.reshape(N, OUTPUTS)), rel=1e-8)
    alpha = np.linalg.solve(theta, residual - decay @ residual)
    expected = TEST_START.ravel() + CROSS.reshape(3 * OUTPUTS, -1) @ alpha
    found = model.test_outputs(time, CROSS, TEST_START)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-8)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("factor", [0.01, 0.3, 0.9, 1.02])
def test_descent_on_the_linearised_network_is_predicted_step_by_step(loss, factor):
    top = np.linalg.eigvalsh(KERNEL.reshape(N * OUTPUTS, -1))[-1]
    rate = factor * 2 / (loss.curvature(N, OUTPUTS) * top)
    model = LinearisedTraining(KERNEL, START, TARGETS, loss, rate)
    theta = np.zeros(J.shape[2])
    gradient = jax.grad(lambda y: _value(loss, y))
    for step in range(21):
        outputs = START + J @ theta
        if step in (0, 1, 7, 20):
            np.testing.assert_allclose(model.train_outputs(step), outputs, rtol=1e-9, atol=1e-11)
            assert model.loss(step) == pytest.approx(value(loss, outputs), rel=1e-8)
            found = model.test_outputs(step, CROSS, TEST_START)
            np.testing.assert_allclose(found, TEST_START + J_TEST @ theta, rtol=1e-8, atol=1e-9)
        theta = theta - rate * np.einsum("now,no->w", J, gradient(jnp.asarray(outputs)))


def _value(loss, y):
    total = jnp.sum((y - TARGETS) ** 2) / (2 if loss.half else 1)
    return total / {"none": 1, "examples": N, "entries": N * OUTPUTS}[loss.mean]


def test_a_real_network_trains_as_predicted_while_its_kernel_stays():
    loss, rate = SquaredLoss(True, "examples"), 1e-3
    model = LinearisedTraining(KERNEL, START, TARGETS, loss, rate)
    step = jax.jit(jax.grad(lambda params: _value(loss, case.f(params, X))))
    params, actual = PARAMS, []
    for _ in range(10):
        actual.append(value(loss, case.f(params, X)))
        params = jax.tree.map(lambda p, g: p - rate * g, params, step(params))
    predicted = [model.loss(k) for k in range(10)]
    departure = loss_departure(actual, predicted)
    fallen = 1 - predicted[-1] / predicted[0]
    assert departure[0] == pytest.approx(0, abs=1e-12)
    assert np.all(np.abs(departure) < 0.05 * fallen)
    assert abs(departure[-1]) > 1e-9  # the network is not linear


def test_duplicated_examples_learn_the_mean_of_their_targets():
    x = jnp.concatenate([X, X])
    kernel = oracle.kernel(case.f, PARAMS, x)
    targets = np.concatenate([TARGETS, -TARGETS])
    start = np.concatenate([START, START])
    model = LinearisedTraining(kernel, start, targets, SquaredLoss())
    found = model.test_outputs(
        1e9, oracle.contract(J_TEST, oracle.jacobian(case.f, PARAMS, x)), TEST_START
    )
    assert np.all(np.isfinite(found))
    np.testing.assert_allclose(model.train_outputs(1e9), 0, atol=1e-5)


def test_zero_kernel_one_entry_and_small_times():
    zero = LinearisedTraining(np.zeros((2, 2)), np.zeros((2, 1)), np.ones((2, 1)), SquaredLoss())
    assert zero.loss(10.0) == zero.loss(0.0) == 0.5
    np.testing.assert_array_equal(zero.train_outputs(5.0), np.zeros((2, 1)))
    one = LinearisedTraining([[2.0]], [[0.0]], [[1.0]], SquaredLoss(mean="none"))
    assert one.train_outputs(1e-18)[0, 0] == pytest.approx(2e-18, rel=1e-12)
    assert one.loss(400.0) == pytest.approx(0.5 * np.exp(-1600.0), abs=0)


def test_what_does_not_fit():
    with pytest.raises(KernelInputError, match=r"targets \(3, 1\)"):
        LinearisedTraining(np.eye(2), np.zeros((2, 1)), np.zeros((3, 1)), SquaredLoss())
    with pytest.raises(KernelInputError, match="finite"):
        LinearisedTraining(np.eye(1), np.zeros((1, 1)), np.full((1, 1), np.nan), SquaredLoss())
    with pytest.raises(KernelInputError, match="equal"):
        loss_departure([1.0], [1.0, 2.0])
    with pytest.raises(KernelInputError, match="positive loss"):
        loss_departure([1.0], [0.0])


def test_a_part_of_a_step_is_refused_by_all_alike():
    model = LinearisedTraining(KERNEL, START, TARGETS, SquaredLoss(), 0.1)
    for call in (
        model.loss,
        model.train_outputs,
        lambda t: model.test_outputs(t, CROSS, TEST_START),
    ):
        with pytest.raises(KernelInputError, match=r"time=2.5; expected a whole number of steps"):
            call(2.5)


def test_an_infinite_time_is_the_limit_also_of_a_singular_kernel():
    jacobian = np.random.default_rng(0).normal(size=(4, 2))  # rank 2 of 4
    kernel = (jacobian @ jacobian.T).reshape(4, 1, 4, 1)
    test = np.random.default_rng(1).normal(size=(3, 2))
    outputs, targets = np.zeros((4, 1)), np.arange(4.0)[:, None]
    model = LinearisedTraining(kernel, outputs, targets, SquaredLoss())
    fitted = jacobian @ np.linalg.pinv(jacobian) @ targets
    np.testing.assert_allclose(model.train_outputs(np.inf), fitted, atol=1e-12)
    cross = (test @ jacobian.T).reshape(3, 1, 4, 1)
    predicted = test @ np.linalg.pinv(jacobian) @ targets
    np.testing.assert_allclose(model.test_outputs(np.inf, cross, np.zeros((3, 1))), predicted)
    assert model.loss(np.inf) == pytest.approx(model.loss(1e9), rel=1e-9)
