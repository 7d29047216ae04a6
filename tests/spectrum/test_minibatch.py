"""The rate of SGD on minibatches, by its exact second moments and by running it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntk_train import CrossEntropy, KernelInputError, SquaredLoss
from ntk_train.spectrum import (
    critical_learning_rate,
    minibatch_critical_learning_rate,
    sharpness,
)

OPTIMIZERS = [(0.0, False), (0.9, False), (0.9, True)]


def regression(n, o, p, spread=3.0):
    """The Jacobian [N, O, P] of a linear regression, with one direction above the others."""
    rng = np.random.default_rng([n, o, p])  # the same whatever ran before
    return rng.normal(size=(n, o, p)) * np.where(np.arange(p) == 0, spread, 1.0)


def kernel_of(j):
    rows = j.reshape(-1, j.shape[2])
    return (rows @ rows.T).reshape(*j.shape[:2], *j.shape[:2])


def growth(hessians, rate, batch, momentum, nesterov):
    """Per step, of the second moments of parameters and velocity under SGD on quadratics.

    The losses of the examples have these Hessians, and a minimum in common. A batch is drawn with
    replacement.
    """
    eye = np.eye(hessians.shape[1])
    ahead = momentum if nesterov else 0.0

    def step(h):  # v <- h w + beta v,  w <- w - rate (v, or h w + beta v with Nesterov)
        return np.block(
            [
                [eye - rate * (1 + ahead) * h, -rate * momentum * (ahead if nesterov else 1) * eye],
                [h, momentum * eye],
            ]
        )

    mean = step(hessians.mean(axis=0))
    noise = sum(np.kron(step(h) - mean, step(h) - mean) for h in hessians) / len(hessians)
    return np.max(np.abs(np.linalg.eigvals(np.kron(mean, mean) + noise / batch)))


def edge(hessians, high, batch, momentum, nesterov):
    """The rate at which second moments begin to grow."""
    low = high * 1e-4
    for _ in range(25):
        middle = np.sqrt(low * high)
        stable = growth(hessians, middle, batch, momentum, nesterov) < 1
        low, high = (middle, high) if stable else (low, middle)
    return low


@pytest.mark.parametrize(("n", "o", "p"), [(7, 1, 4), (6, 2, 4)])
@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize(("momentum", "nesterov"), OPTIMIZERS)
def test_second_moments_grow_above_the_rate_and_not_below(n, o, p, batch, momentum, nesterov):
    j = regression(n, o, p)
    how = {"momentum": momentum, "nesterov": nesterov}
    loss = SquaredLoss(mean="examples")
    rate = minibatch_critical_learning_rate(kernel_of(j), loss, batch, **how)
    full = critical_learning_rate(kernel_of(j), loss, **how)
    hessians = np.einsum("nop,noq->npq", j, j)
    exact = edge(hessians, full, batch, momentum, nesterov)
    assert rate <= exact < 6 * rate
    assert exact < full
    if batch == 1 and momentum and not nesterov:
        assert 0.002 < rate / full < 0.057


def test_examples_of_one_norm_have_the_edge_itself():
    # Rows of a Hadamard matrix: the blocks are equal, and what is left is of order 1 / rank.
    hadamard = np.array([[1.0]])
    for _ in range(5):
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    j = hadamard[:, None, :8]
    loss = SquaredLoss(mean="examples")
    for momentum in (0.0, 0.9):
        rate = minibatch_critical_learning_rate(kernel_of(j), loss, 1, momentum=momentum)
        exact = edge(np.einsum("nop,noq->npq", j, j), 8 * rate, 1, momentum, False)
        assert rate <= exact < 1.2 * rate


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_on_a_linear_regression_around_the_rate(momentum):
    n, batch = 40, 1
    j = regression(n, 1, 8)
    x = jnp.asarray(j[:, 0])
    y = x @ jnp.ones(8)

    def loss(w, rows):
        return jnp.mean((x[rows] @ w - y[rows]) ** 2) / 2

    kernel = np.asarray(x @ x.T)
    of = SquaredLoss(mean="examples")
    rate = minibatch_critical_learning_rate(kernel, of, batch, momentum=momentum)
    full = critical_learning_rate(kernel, of, momentum=momentum)

    @jax.jit
    def last_losses(rate, key):
        optimizer = optax.sgd(rate, momentum or None)

        def step(carry, key):
            w, state = carry
            rows = jax.random.randint(key, (batch,), 0, n)
            updates, state = optimizer.update(jax.grad(loss)(w, rows), state)
            return (w + updates, state), None

        start = jnp.zeros(8)
        (w, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), jax.random.split(key, 1000))
        return loss(w, jnp.arange(n)) / loss(start, jnp.arange(n))

    keys = jax.random.split(jax.random.key(0), 64)
    runs = jax.vmap(last_losses, in_axes=(None, 0))
    assert np.max(runs(rate, keys)) < 1e-6
    exact = edge(np.einsum("nop,noq->npq", j, j), full, batch, momentum, nesterov=False)
    assert rate <= 2 * exact < full  # which descent on the whole batch would bear
    # In the mean square: one of many runs may have drawn the examples that bear it.
    assert np.quantile(runs(2 * exact, keys), 0.1) > 1e6


def test_it_tends_to_the_rate_of_the_whole_batch_and_follows_the_loss():
    j = regression(6, 2, 5)
    kernel = kernel_of(j)
    how = {"momentum": 0.9, "nesterov": True}
    loss = SquaredLoss(mean="examples")
    full = critical_learning_rate(kernel, loss, **how)
    rates = [minibatch_critical_learning_rate(kernel, loss, b, **how) for b in (1, 10, 100, 10**6)]
    assert np.all(np.diff(rates) > 0)
    assert rates[-1] == pytest.approx(full, rel=1e-3)
    # A batch of the summed loss has B terms.
    summed = minibatch_critical_learning_rate(kernel, SquaredLoss(mean="none"), 10, **how)
    assert 10 * summed == pytest.approx(rates[1])
    logits = np.random.default_rng(0).normal(size=(6, 2))
    loss = CrossEntropy()
    found = minibatch_critical_learning_rate(kernel, loss, 1, logits=logits)
    hessian = jax.hessian(lambda z: jax.nn.logsumexp(z))
    hessians = np.stack([a.T @ hessian(z) @ a for a, z in zip(j, jnp.asarray(logits), strict=True)])
    full = 2 / sharpness(kernel, loss, logits)
    assert full == pytest.approx(2 / np.linalg.eigvalsh(hessians.mean(axis=0))[-1])
    assert found <= edge(hessians, full, 1, 0.0, False) < 3.5 * found
    assert minibatch_critical_learning_rate(np.zeros((2, 2)), SquaredLoss(), 1) == np.inf


def test_what_is_no_batch_size():
    with pytest.raises(KernelInputError, match="batch_size=0; expected the examples in a batch"):
        minibatch_critical_learning_rate(np.eye(2), SquaredLoss(), 0)
