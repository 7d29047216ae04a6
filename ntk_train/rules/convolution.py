"""Convolutions: dense layers of the patches that the kernel's taps see.

y[r,t,b] = sum_a x[r,t,a] w[r,a,b],   t output positions, a = channels x taps, r feature groups
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._convolution import patches
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

    def seen_by(first: int, taps: Sequence[int], x: jax.Array) -> jax.Array:
        """What a kernel of so many taps sees, from a row of the whole kernel on."""
        x = x.transpose(lhs_spec[0], *lhs_spec[2:], lhs_spec[1])  # [batch, *spatial, channels]
        padding = list(params["padding"])
        if first:
            low, high = padding[0]
            padding[0] = (low - first * params["rhs_dilation"][0], high)
        seen = patches(
            x,
            taps,
            [out_shape[axis] for axis in out_spec[2:]],
            params["window_strides"],
            padding,
            params["lhs_dilation"],
            params["rhs_dilation"],
        )  # [batch, *positions, taps, channels]
        k, c = seen.shape[-2:]
        return jnp.moveaxis(seen.reshape(t, k, r, c // r), 2, 0).reshape(r, t, k * (c // r))

    # What one row of taps sees: the patches of all rows take as many times the input's memory.
    rows = range(taps[0]) if len(taps) > 1 and taps[0] > 1 else ()
    pieces = [functools.partial(seen_by, row, [1, *taps[1:]]) for row in rows]

    def g_factor(g: jax.Array) -> jax.Array:
        g = g.transpose(out_spec[0], *out_spec[2:], out_spec[1])
        return jnp.moveaxis(g.reshape(t, r, b), 1, 0)

    x_factor = functools.partial(seen_by, 0, taps)
    return Factors(r, t, a, b, 0, x_factor, g_factor, (tuple(rhs_spec), r), pieces)
