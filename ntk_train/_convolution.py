"""Convolutions in the forms that are fast: as patches, and in the layout that a CPU likes."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Up to this many positions the product of patches is faster on a CPU than the convolution.
_FEW_POSITIONS = 64


def patches(
    x: jax.Array,
    taps: Sequence[int],
    positions: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    x_dilation: Sequence[int],
    w_dilation: Sequence[int],
) -> jax.Array:
    """What each tap of a kernel sees at each output position.

    Copies of shifted slices: no arithmetic, where the usual convolution with one-hot kernels costs
    as much as the layer itself. Channels stay innermost, so that what is copied is contiguous.

    Args:
      x: [batch, *spatial, channels].
      taps: the kernel's sizes.
      positions: the output's sizes.
      strides: as in `lax.conv_general_dilated`, as are the others.
      padding: of the dilated input, low and high.
      x_dilation: of the input.
      w_dilation: of the kernel.

    Returns:
      [batch, *positions, taps, channels].
    """
    if 0 in positions:  # the window is larger than the input, and slices would be negative
        return jnp.zeros((len(x), *positions, math.prod(taps), x.shape[-1]), x.dtype)
    x = _dilated(x, padding, x_dilation)
    shifted = []
    for tap in itertools.product(*map(range, taps)):
        start = [i * d for i, d in zip(tap, w_dilation, strict=True)]
        limit = [
            low + (size - 1) * stride + 1
            for low, size, stride in zip(start, positions, strides, strict=True)
        ]
        shifted.append(
            lax.slice(x, [0, *start, 0], [len(x), *limit, x.shape[-1]], [1, *strides, 1])
        )
    return jnp.stack(shifted, axis=-2)


def convolution_on_cpu(primitive: Any, x: jax.Array, w: jax.Array, params: dict) -> jax.Array:
    """A convolution in a form that XLA's CPU compiler has fast code for.

    It brings other layouts to channels-last in the main program alone, and swaps kernel and input
    where the input is the smaller one; inside a loop the one is seven times slower and the other a
    hundred times. An input that is dilated, as in the derivative of a strided convolution, has no
    fast code at all.

    Args:
      primitive: `lax.conv_general_dilated_p`.
      x: the input.
      w: the kernel.
      params: of the equation.

    Returns:
      The output, in the layout that `params` asks for.
    """
    specs = params["dimension_numbers"]
    (n, c, *xs), (o, i, *ws), (out_n, out_c, *outs) = specs
    rank = x.ndim
    x, w = x.transpose(n, *xs, c), w.transpose(*ws, i, o)
    spatial = range(1, rank - 1)
    last = (0, rank - 1, *spatial)
    standard = type(specs)(last, (rank - 1, rank - 2, *range(rank - 2)), last)
    params = {**params, "dimension_numbers": standard}
    if any(d > 1 for d in params["lhs_dilation"]):
        x = _dilated(x, params["padding"], params["lhs_dilation"])
        none = [0] * len(spatial)
        params |= {"padding": tuple(zip(none, none, strict=True)), "lhs_dilation": (1,) * len(none)}
    out = jax.eval_shape(lambda x, w: primitive.bind(x, w, **params), x, w)
    groups = params["feature_group_count"] * params["batch_group_count"]
    if groups == 1 and math.prod(out.shape[1:-1]) <= _FEW_POSITIONS:
        seen = patches(
            x,
            w.shape[:-2],
            out.shape[1:-1],
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
        )
        y = lax.dot_general(
            seen.reshape(*out.shape[:-1], math.prod(w.shape[:-1])),
            w.reshape(math.prod(w.shape[:-1]), w.shape[-1]),
            (((rank - 1,), (0,)), ((), ())),
            precision=params["precision"],
            preferred_element_type=out.dtype,
        )
    else:
        y = primitive.bind(x, w, **params)
    axes = (out_n, *outs, out_c)  # where each axis of y belongs
    return y.transpose([axes.index(axis) for axis in range(rank)])


def _dilated(
    x: jax.Array, padding: Sequence[tuple[int, int]], dilation: Sequence[int]
) -> jax.Array:
    """[batch, *spatial, channels] with zeros between and around; negative padding crops."""
    edges = [(low, high, d - 1) for (low, high), d in zip(padding, dilation, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
