"""The critical learning rate, by running gradient descent just under and just over it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntk_train import KernelInputError
from ntk_train.spectrum import (
    CrossEntropy,
    SquaredLoss,
    critical_learning_rate,
    guaranteed_learning_rate,
    hessian_weighted_kernel,
    sharpness,
    stable_rate,
)
from tests import oracle
from tests.spectrum import case

N, OUTPUTS = 5, 3
PARAMS, X = case.make(N, OUTPUTS)
TARGETS = jax.random.normal(jax.random.key(9), (N, OUTPUTS), jnp.float64)
JACOBIAN = oracle.jacobian(case.f, PARAMS, X)  # [N, O, P]
KERNEL = oracle.contract(JACOBIAN, JACOBIAN)


def squared(loss, outputs):
    total = jnp.sum((outputs - TARGETS) ** 2) / (2 if loss.half else 1)
    return total / {"none": 1, "examples": N, "entries": N * OUTPUTS}[loss.mean]


def distances(optimizer, loss_of_outputs, start, steps):
    """Of the linearised network's parameters from their start, in the course of training."""

    def loss(theta):
        return loss_of_outputs(case.f(PARAMS, X) + JACOBIAN @ theta)

    def step(carry, _):
        theta, state = carry
        updates, state = optimizer.update(jax.grad(loss)(theta), state)
        return (theta + updates, state), jnp.linalg.norm(jax.grad(loss)(theta))

    theta = jnp.asarray(start)
    _, norms = jax.lax.scan(step, (theta, optimizer.init(theta)), None, length=steps)
    return np.asarray(norms)


LOSSES = [
    SquaredLoss(half=True, mean="none"),
    SquaredLoss(half=False, mean="examples"),
    SquaredLoss(half=True, mean="entries"),
]
OPTIMIZERS = [(0.0, False), (0.6, False), (0.9, True)]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize(("momentum", "nesterov"), OPTIMIZERS)
def test_descent_diverges_just_over_and_not_under_the_rate(loss, momentum, nesterov):
    critical = critical_learning_rate(KERNEL, loss, momentum=momentum, nesterov=nesterov)
    top = np.linalg.svd(JACOBIAN.reshape(N * OUTPUTS, -1))[2][0]
    for factor in (0.97, 1.03):
        optimizer = optax.sgd(factor * critical, momentum or None, nesterov)
        norms = distances(optimizer, lambda y: squared(loss, y), 10 * top, 400)
        if factor < 1:
            assert norms[-1] < norms[0] / 10
        else:
            assert norms[-1] > 100 * norms[0]


@pytest.mark.parametrize("mean", ["examples", "none"])
def test_descent_on_the_cross_entropy_around_its_minimum(mean):
    # Soft labels equal to the outputs' probabilities put the minimum at the start.
    logits = case.f(PARAMS, X)
    soft = jax.nn.softmax(logits)
    divisor = N if mean == "examples" else 1

    def loss(outputs):
        return optax.softmax_cross_entropy(outputs, soft).sum() / divisor

    critical = critical_learning_rate(KERNEL, CrossEntropy(mean), logits=logits)
    hessian = jax.hessian(lambda theta: loss(logits + JACOBIAN @ theta))(
        jnp.zeros(JACOBIAN.shape[2])
    )
    values, vectors = np.linalg.eigh(hessian)
    assert critical == pytest.approx(2 / values[-1], rel=1e-9)
    start = 1e-7 * vectors[:, -1]
    under = distances(optax.sgd(0.97 * critical), loss, start, 300)
    over = distances(optax.sgd(1.03 * critical), loss, start, 300)
    assert under[-1] < under[0] / 10
    assert over[-1] > 100 * over[0]


def test_the_weighted_kernel_has_the_eigenvalues_of_the_symmetric_one():
    logits = np.asarray(case.f(PARAMS, X)) * 5
    weighted = hessian_weighted_kernel(KERNEL, logits)
    root = np.zeros((N * OUTPUTS, N * OUTPUTS))
    for n in range(N):
        p = np.exp(logits[n]) / np.exp(logits[n]).sum()
        values, vectors = np.linalg.eigh(np.diag(p) - np.outer(p, p))
        block = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
        root[n * OUTPUTS : (n + 1) * OUTPUTS, n * OUTPUTS : (n + 1) * OUTPUTS] = block
    expected = np.linalg.eigvalsh(root @ KERNEL.reshape(N * OUTPUTS, -1) @ root)
    found = np.linalg.eigvalsh(weighted)
    np.testing.assert_allclose(found, expected, atol=1e-7 * expected[-1])
    assert np.sum(found > 1e-12 * found[-1]) <= N * (OUTPUTS - 1)


def test_sharpness_of_the_real_losses_hessian_where_the_residual_is_zero():
    outputs = case.f(PARAMS, X)
    flat, unravel = jax.flatten_util.ravel_pytree(PARAMS)

    def loss(flat):
        return jnp.mean((case.f(unravel(flat), X) - outputs) ** 2)

    expected = np.linalg.eigvalsh(jax.hessian(loss)(flat))[-1]
    found = sharpness(KERNEL, SquaredLoss(half=False, mean="entries"))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_the_rate_falls_with_the_scale_of_the_kernel(scale):
    for loss, logits in ((SquaredLoss(), None), (CrossEntropy(), case.f(PARAMS, X))):
        one = critical_learning_rate(KERNEL, loss, logits=logits)
        assert scale * critical_learning_rate(scale * KERNEL, loss, logits=logits) == (
            pytest.approx(one)
        )


def test_logits_may_be_saturated_or_shifted():
    logits = np.array(case.f(PARAMS, X))
    one = sharpness(KERNEL, CrossEntropy(), logits)
    assert sharpness(KERNEL, CrossEntropy(), logits + 1e6) == pytest.approx(one, rel=1e-6)
    logits[:, 0] += 2000.0
    assert 0 <= sharpness(KERNEL, CrossEntropy(), logits) < 1e-15
    assert critical_learning_rate(np.zeros((2, 2)), SquaredLoss()) == math.inf


def test_one_output_may_come_as_a_matrix():
    loss = SquaredLoss(mean="examples")
    assert critical_learning_rate(np.diag([4.0, 1.0]), loss) == pytest.approx(1)
    assert critical_learning_rate([[4.0]], SquaredLoss(half=False)) == pytest.approx(0.25)
    assert math.isnan(stable_rate(math.nan))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: SquaredLoss(mean="batch"), "mean='batch'"),
        (lambda: CrossEntropy(mean="entries"), "mean='entries'"),
        (lambda: stable_rate(1.0, 1.0), "momentum=1.0"),
        (lambda: sharpness(KERNEL, CrossEntropy()), "logits is missing"),
        (lambda: sharpness(KERNEL, CrossEntropy(), np.zeros((N, OUTPUTS + 1))), r"\[5, 3\]"),
    ],
)
def test_what_does_not_fit(call, match):
    with pytest.raises(KernelInputError, match=match):
        call()


@pytest.mark.parametrize("mean", ["examples", "none"])
def test_one_logit_is_trained_on_the_cross_entropy_of_its_sigmoid(mean):
    kernel, labels = KERNEL[:, :1, :, :1], np.array([0, 1, 1, 0, 1])
    logits = np.array([-40.0, -1.0, 0.0, 2.0, 40.0])[:, None]  # 1 - sigmoid(40) is 0 in float64
    hessian = jax.hessian(
        lambda y: (
            optax.sigmoid_binary_cross_entropy(y[:, 0], labels).sum()
            / (N if mean == "examples" else 1)
        )
    )(jnp.asarray(logits)).reshape(N, N)
    top = np.max(np.linalg.eigvals(np.asarray(hessian) @ kernel.reshape(N, N)).real)
    loss = CrossEntropy(mean)
    assert critical_learning_rate(kernel, loss, logits=logits) == pytest.approx(2 / top, rel=1e-9)
    matrix = kernel.reshape(N, N)
    assert critical_learning_rate(matrix, loss, logits=logits) == pytest.approx(2 / top, rel=1e-9)
    weighted = np.diag(hessian_weighted_kernel(kernel, logits))
    assert weighted[0] == pytest.approx(kernel[0, 0, 0, 0] * np.exp(-40), rel=1e-9)


def test_one_logit_counts_as_two_whose_first_is_zero():
    kernel, logits = KERNEL[:, :1, :, :1], case.f(PARAMS, X)[:, :1]
    two = np.zeros((N, 2, N, 2))
    two[:, 1:, :, 1:] = kernel
    pair = np.concatenate([np.zeros((N, 1)), logits], axis=1)
    expected = sharpness(two, CrossEntropy(), pair)
    assert sharpness(kernel, CrossEntropy(), logits) == pytest.approx(expected, rel=1e-9)


LABELS = np.array([0, 1, 2, 1, 0])
WRONG = 30.0 * np.eye(OUTPUTS)[(LABELS + 1) % OUTPUTS]  # with certainty


def losses_and_energies(rate, momentum, nesterov, start, steps):
    """Of the linearised network under the cross-entropy, from some logits, on the whole batch."""

    def loss(theta):
        outputs = start + JACOBIAN @ theta
        return optax.softmax_cross_entropy_with_integer_labels(outputs, LABELS).mean()

    optimizer = optax.sgd(rate, momentum or None, nesterov)

    def step(carry, _):
        theta, state = carry
        updates, state = optimizer.update(jax.grad(loss)(theta), state)
        theta = theta + updates
        velocity = state[0].trace if momentum else 0 * theta
        behind = theta + rate * momentum * velocity if nesterov else theta
        weight = 1 if nesterov else momentum
        energy = loss(behind) + weight * rate / 2 * jnp.sum(velocity**2)
        return (theta, state), (loss(theta), energy)

    theta = jnp.zeros(JACOBIAN.shape[2])
    _, found = jax.lax.scan(step, (theta, optimizer.init(theta)), None, length=steps)
    return tuple(np.insert(values, 0, loss(theta)) for values in found)


@pytest.mark.parametrize(("momentum", "nesterov"), OPTIMIZERS)
@pytest.mark.parametrize("start", [np.asarray(case.f(PARAMS, X)), WRONG], ids=["usual", "wrong"])
def test_below_the_guaranteed_rate_descent_on_the_cross_entropy_converges(
    start, momentum, nesterov
):
    rate = guaranteed_learning_rate(KERNEL, CrossEntropy(), momentum=momentum, nesterov=nesterov)
    losses, energies = losses_and_energies(0.99 * rate, momentum, nesterov, start, 3000)
    assert np.all(np.diff(energies) <= 1e-12 * energies[0])
    assert losses[-1] < 0.02


def test_above_the_critical_rate_the_cross_entropy_spikes_and_may_converge():
    start = 3.0 * np.eye(OUTPUTS)[LABELS]
    critical = critical_learning_rate(KERNEL, CrossEntropy(), logits=start)
    for factor in (1.05, 10.0, 100.0):
        losses, _ = losses_and_energies(factor * critical, 0.0, False, start, 3000)
        assert losses[-1] < losses[0] / 10
    assert losses.max() > 2 * losses[0]


def test_below_the_critical_rate_wrong_logits_jump_far():
    critical = critical_learning_rate(KERNEL, CrossEntropy(), logits=WRONG)
    guaranteed = guaranteed_learning_rate(KERNEL, CrossEntropy())
    assert critical > 1e6 * guaranteed
    losses, _ = losses_and_energies(0.5 * critical, 0.0, False, WRONG, 1)
    assert losses[1] > 1e6 * losses[0]


@pytest.mark.parametrize("loss", [CrossEntropy("positions", 3), CrossEntropy("none", (1, 2))])
def test_the_guaranteed_rate_is_the_least_critical_one(loss):
    rng = np.random.default_rng(0)
    bound = guaranteed_learning_rate(KERNEL, loss)
    for scale in (0.1, 1.0, 10.0):
        logits = scale * rng.normal(size=(N, OUTPUTS))
        assert bound <= critical_learning_rate(KERNEL, loss, logits=logits)
    if loss.classes == 3:  # two classes of one half each are the worst, in all examples
        halves = np.where(np.arange(3) == 2, -np.inf, np.zeros((N, 3)))
        single = np.zeros_like(KERNEL)
        single[0, :2, 0, :2] = [[1, -1], [-1, 1]]
        worst = critical_learning_rate(single, loss, logits=halves)
        assert guaranteed_learning_rate(single, loss) == pytest.approx(worst)


def test_the_guaranteed_rate_of_the_squared_loss_is_the_critical_one():
    loss = SquaredLoss(mean="examples")
    assert guaranteed_learning_rate(KERNEL, loss) == critical_learning_rate(KERNEL, loss)
    assert guaranteed_learning_rate(np.zeros((2, 2)), CrossEntropy()) == math.inf


def of_the_hessian(loss_of_outputs, outputs):
    """2 over the top eigenvalue of J^T H J, H by plain differentiation."""
    rows = JACOBIAN.reshape(N * OUTPUTS, -1)
    hessian = np.asarray(jax.hessian(loss_of_outputs)(outputs)).reshape(N * OUTPUTS, -1)
    return 2 / np.linalg.eigvalsh(rows.T @ hessian @ rows)[-1]


def test_heads_and_positions_are_softmaxes_of_their_own():
    outputs = 2.0 * case.f(PARAMS, X)
    sigmoid = optax.sigmoid_binary_cross_entropy
    softmax = optax.softmax_cross_entropy_with_integer_labels
    heads = lambda y: sigmoid(y[:, 0], LABELS % 2).mean() + softmax(y[:, 1:], LABELS % 2).mean()
    loss = CrossEntropy(classes=(1, 2))
    want = of_the_hessian(heads, outputs)
    for logits in (
        outputs,
        (outputs[:, 0], outputs[:, 1:]),
        {"a": outputs[:, :1], "b": outputs[:, 1:]},
    ):
        found = critical_learning_rate(KERNEL, loss, logits=logits)
        assert found == pytest.approx(want, rel=1e-9)
    assert critical_learning_rate(KERNEL, CrossEntropy(), logits=outputs) != pytest.approx(
        want, 0.1
    )
    want = of_the_hessian(lambda y: sigmoid(y, jnp.ones((N, 3))).mean(), outputs)
    found = critical_learning_rate(KERNEL, CrossEntropy("positions", 1), logits=outputs)
    assert found == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("mean", ["examples", "positions"])
def test_a_language_models_softmax_is_over_its_last_axis(mean):
    n, t, v = 3, 2, 4
    keys = jax.random.split(jax.random.key(4), 2)
    j = jax.random.normal(keys[0], (n, t, v, 7), jnp.float64)
    logits = jax.random.normal(keys[1], (n, t, v), jnp.float64)
    labels = jnp.array([[0, 1], [2, 3], [3, 3]])

    def loss(theta):
        rows = optax.softmax_cross_entropy_with_integer_labels(logits + j @ theta, labels)
        return rows.sum() / (n * t if mean == "positions" else n)

    want = 2 / np.linalg.eigvalsh(jax.hessian(loss)(jnp.zeros(7)))[-1]
    rows = np.asarray(j).reshape(n * t * v, 7)
    kernel = (rows @ rows.T).reshape(n, t * v, n, t * v)
    for of in (logits, np.asarray(logits).reshape(n, t * v)):
        found = critical_learning_rate(kernel, CrossEntropy(mean, v), logits=of)
        assert found == pytest.approx(want, rel=1e-9)
    for classes, match in (
        (None, r"logits has shape \[3, 2, 4\]: an example has 2 softmaxes.*classes=4"),
        ((3, 5), "parts of two of them"),
        (3, "classes=3 does not fit 8 outputs"),
    ):
        with pytest.raises(KernelInputError, match=match):
            critical_learning_rate(kernel, CrossEntropy(mean, classes), logits=logits)
    with pytest.raises(KernelInputError, match=r"\[3, 3\] and \[3, 5\].*classes=\(3, 5\)"):
        critical_learning_rate(kernel, CrossEntropy(), logits=(np.ones((3, 3)), np.ones((3, 5))))
    with pytest.raises(KernelInputError, match="classes=0; expected the classes of each softmax"):
        CrossEntropy(classes=0)
