"""The kernel of wide ReLU networks in the NTK parameterisation is that of infinite ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import linen_fn, ntk
from ntk_train.models import create_model

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 10)))
SIGMA_W, SIGMA_B = 2**0.5, 0.3
WIDTHS = (64, 256, 1024)
SEEDS = 24


def relu_moments(cov):
    """E[relu(u) relu(v)] and E[relu'(u) relu'(v)] of centred normal u, v with covariances [N, N].

    The arc-cosine kernels of orders 1 and 0 over 2 (Y. Cho, L. Saul, *Kernel Methods for Deep
    Learning*, NeurIPS 2009, equations 4 and 6).
    """
    norms = np.sqrt(np.diag(cov))
    scale = np.outer(norms, norms)
    angle = np.arccos(np.clip(cov / scale, -1.0, 1.0))
    first = scale * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    return first, (np.pi - angle) / (2 * np.pi)


def infinite_kernel(x, depth, sigma_w, sigma_b):
    """Theta_L of `depth` hidden layers (A. Jacot et al., NeurIPS 2018, theorem 1)."""
    cov = sigma_w**2 * x @ x.T / x.shape[1] + sigma_b**2
    theta = cov
    for _ in range(depth):
        product, slopes = relu_moments(cov)
        cov = sigma_w**2 * product + sigma_b**2
        theta = cov + sigma_w**2 * slopes * theta
    return theta


def test_the_moments_are_those_of_normal_variables():
    rng = np.random.default_rng(0)
    cov = np.array([[1.5, -0.4], [-0.4, 0.7]])
    u, v = rng.multivariate_normal(np.zeros(2), cov, size=1_000_000).T
    first, zeroth = relu_moments(cov)
    np.testing.assert_allclose(first[0, 1], np.mean(np.maximum(u, 0) * np.maximum(v, 0)), atol=2e-3)
    np.testing.assert_allclose(zeroth[0, 1], np.mean((u > 0) & (v > 0)), atol=2e-3)
    np.testing.assert_allclose(first[0, 0], 1.5 / 2)


def errors(width, depth, sigma_b):
    """The relative error of the kernel, one for each seed, and the mean kernel."""
    model = create_model(
        "fcn",
        num_outputs=1,
        widths=width,
        depth=depth,
        parameterization="ntk",
        sigma_w=SIGMA_W,
        sigma_b=sigma_b,
        param_dtype="float64",
    )

    def kernel(key):
        params = model.init(key, X)["params"]
        return ntk(linen_fn(model), params, X, outputs="trace", implementation="structured")

    kernels = jax.jit(lambda keys: jax.lax.map(kernel, keys))(
        jax.random.split(jax.random.key(0), SEEDS)
    )
    want = infinite_kernel(np.asarray(X), depth, SIGMA_W, sigma_b)
    norm = np.linalg.norm(want)
    return np.linalg.norm(kernels - want, axis=(1, 2)) / norm, kernels.mean(axis=0), want


@pytest.mark.parametrize(("depth", "sigma_b"), [(1, 0.0), (2, SIGMA_B)])
def test_the_error_falls_with_the_square_root_of_the_width(depth, sigma_b):
    found = [errors(width, depth, sigma_b) for width in WIDTHS]
    sizes = [error.mean() for error, _, _ in found]
    assert sizes[-1] < 0.1
    exponent, _ = np.polyfit(np.log(WIDTHS), np.log(sizes), 1)
    assert -0.65 < exponent < -0.35, (exponent, sizes)
    _, mean, want = found[-1]
    assert np.linalg.norm(mean - want) / np.linalg.norm(want) < 3 * sizes[-1] / np.sqrt(SEEDS)


def test_the_standard_parameterization_has_no_limit():
    """Its kernel grows with the width: each hidden weight has a Jacobian of the size of one."""
    traces = []
    for width in (64, 256):
        model = create_model("fcn", num_outputs=1, widths=width, depth=1, param_dtype="float64")
        params = jax.jit(model.init)(jax.random.key(0), X)["params"]
        kernel = jax.jit(functools.partial(ntk, linen_fn(model), outputs="trace"))
        traces.append(jnp.trace(kernel(params, X)))
    assert 2.5 < traces[1] / traces[0] < 5
