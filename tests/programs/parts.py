"""What the text of a random program may name, beside jax, jnp, lax and np."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def resized(v, shape, batch=False):
    """The entries of an array again and again, or as many as there is room for, in a shape."""
    if batch:
        return jax.vmap(lambda v: resized(v, shape))(v)
    return jnp.resize(v, shape) if v.size else jnp.zeros(shape, v.dtype)


@jax.custom_jvp
def bent(v):
    """A function with a derivative of its own, which is not the true one."""
    return jnp.where(v > 0, v, 0.1 * v)


@bent.defjvp
def _bent_jvp(primals, tangents):
    return bent(*primals), tangents[0] * (0.6 + 0.4 * jnp.tanh(primals[0]))


@jax.custom_vjp
def rounded(v):
    """Steps, with the derivative of a smooth function."""
    return jnp.round(2 * v) / 2


rounded.defvjp(lambda v: (rounded(v), v), lambda v, g: (g / (1 + v**2),))


@jax.custom_vjp
def product(v, w):
    """A product with a rule of its own, in which the weight's part is doubled."""
    return jnp.tensordot(v, w, 1)


def _product_bwd(saved, g):
    v, w = saved
    rows = jnp.tensordot(v.reshape(-1, v.shape[-1]).T, g.reshape(-1, w.shape[1]), 1)
    return jnp.tensordot(g, w.T, 1), 2 * rows


product.defvjp(lambda v, w: (product(v, w), (v, w)), _product_bwd)


def standardised(v):
    """Mean 0 along the last axis, and a variance of about 1."""
    centred = v - v.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred * centred).mean(-1, keepdims=True) + 0.1)


NAMES = {
    "jax": jax,
    "jnp": jnp,
    "lax": lax,
    "np": np,
    "resized": resized,
    "bent": bent,
    "rounded": rounded,
    "product": product,
    "standardised": standardised,
}
