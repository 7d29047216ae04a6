"""The kernel in float64 from an explicit Jacobian of the whole batch. Imports nothing of ours."""

import math

import jax
import jax.numpy as jnp
import numpy as np

QUICK = {"xla_backend_optimization_level": 0}  # most of the time goes into compiling


def jacobian(f, params, x, forward=True):
    """df(x)/dtheta as [N, O, P], in float64 and over the floating-point leaves of params."""
    x = jax.tree.map(_to_float64, x)
    leaves, treedef = jax.tree.flatten(params)
    is_theta = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]
    theta = [jnp.asarray(leaf, jnp.float64) for leaf, yes in zip(leaves, is_theta) if yes]

    def flat_f(theta):
        theta = iter(theta)
        merged = [next(theta) if yes else leaf for leaf, yes in zip(leaves, is_theta)]
        outputs = jax.tree.leaves(f(treedef.unflatten(merged), x))
        return jnp.concatenate([_rows(y, 1) for y in outputs], axis=1)

    of_theta = jax.jit((jax.jacfwd if forward else jax.jacrev)(flat_f), compiler_options=QUICK)
    columns = of_theta(theta)
    return np.concatenate([_rows(np.asarray(j), 2) for j in columns], axis=2)


def contract(j1, j2):
    """The full kernel [N, O, M, O] of two Jacobians."""
    return np.einsum("now,mpw->nomp", j1, j2)


def kernel(f, params, x1, x2=None, forward=True):
    """The full kernel [N, O, M, O]."""
    j1 = jacobian(f, params, x1, forward)
    return contract(j1, j1 if x2 is None else jacobian(f, params, x2, forward))


def _rows(y, kept):
    """All axes but the first ones as one, which may be empty."""
    return y.reshape(*y.shape[:kept], math.prod(y.shape[kept:]))


def _to_float64(x):
    return jnp.asarray(x, jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x
