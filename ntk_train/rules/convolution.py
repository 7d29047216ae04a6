"""Convolutions: dense layers of the patches that the kernel's taps see.

y[r,t,b] = sum_a x[r,t,a] w[r,a,b],   t output positions, a = channels x taps, r feature groups
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._jax import Equation, shape_of
from ntk_train.rules.registry import Factors, register


@register(lax.conv_general_dilated_p)
def convolution(equation: Equation, weight: int) -> Factors | None:
    """Any number of spatial dimensions, strides, paddings, dilations, layouts and groups."""
    params = equation.params
    if weight != 1 or params["batch_group_count"] != 1:
        return None
    lhs_spec, rhs_spec, out_spec = params["dimension_numbers"]
    w_shape = shape_of(equation.invars[1]).shape
    out_shape = shape_of(equation.outvars[0]).shape
    r = params["feature_group_count"]
    taps = [w_shape[axis] for axis in rhs_spec[2:]]
    a = w_shape[rhs_spec[1]] * math.prod(taps)
    b = w_shape[rhs_spec[0]] // r
    t = out_shape[out_spec[0]] * math.prod(out_shape[axis] for axis in out_spec[2:])

    def x_factor(x: jax.Array) -> jax.Array:
        x = x.transpose(lhs_spec)  # [batch, channels, *spatial]
        patches = _patches(
            x,
            taps,
            [out_shape[axis] for axis in out_spec[2:]],
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
        )  # [taps, batch, channels, *positions]
        k, n, c, *positions = patches.shape
        patches = patches.reshape(k, n, r, c // r, *positions)
        return jnp.moveaxis(patches, (2, 3, 0), (0, -2, -1)).reshape(r, t, a)

    def g_factor(g: jax.Array) -> jax.Array:
        g = g.transpose(out_spec[0], *out_spec[2:], out_spec[1])
        return jnp.moveaxis(g.reshape(t, r, b), 1, 0)

    return Factors(r, t, a, b, 0, x_factor, g_factor, (tuple(rhs_spec), r))


def _patches(
    x: jax.Array,
    taps: list[int],
    positions: list[int],
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    x_dilation: tuple[int, ...],
    w_dilation: tuple[int, ...],
) -> jax.Array:
    """What each tap sees at each output position: [taps, batch, channels, *positions].

    Copies of shifted slices: no arithmetic, where the usual convolution with one-hot kernels costs
    as much as the layer itself.
    """
    edges = [(low, high, d - 1) for (low, high), d in zip(padding, x_dilation, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *edges])
    shifted = []
    for tap in itertools.product(*map(range, taps)):
        start = [i * d for i, d in zip(tap, w_dilation, strict=True)]
        limit = [
            low + (size - 1) * stride + 1
            for low, size, stride in zip(start, positions, strides, strict=True)
        ]
        shifted.append(lax.slice(x, [0, 0, *start], [*x.shape[:2], *limit], [1, 1, *strides]))
    return jnp.stack(shifted)
