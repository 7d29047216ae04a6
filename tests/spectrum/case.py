"""A small network, its data and its kernel from an explicit Jacobian, for the tests beside."""

import jax
import jax.numpy as jnp
import numpy as np

from tests import oracle


def f(params, x):
    return jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"]) @ params["out"]


def make(n, o, features=5, width=16, seed=0):
    """Params and inputs in float64."""
    keys = jax.random.split(jax.random.key(seed), 4)
    params = {
        "hidden": {
            "kernel": jax.random.normal(keys[0], (features, width), jnp.float64) / features**0.5,
            "bias": jax.random.normal(keys[1], (width,), jnp.float64),
        },
        "out": jax.random.normal(keys[2], (width, o), jnp.float64) / width**0.5,
    }
    return params, jax.random.normal(keys[3], (n, features), jnp.float64)


def matrix(params, x):
    """The full kernel as [N O, N O]."""
    j = oracle.jacobian(f, params, x)
    j = j.reshape(-1, j.shape[-1])
    return j @ j.T


def kernel_with(eigenvalues, seed=0):
    """A matrix with the eigenvalues, in a random basis."""
    n = len(eigenvalues)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    return (basis * np.asarray(eigenvalues, float)) @ basis.T
