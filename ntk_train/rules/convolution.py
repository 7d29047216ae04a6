"""Convolutions: dense layers of the patches that the kernel's taps see.

y[r,t,b] = sum_a x[r,t,a] w[r,a,b],   t output positions, a = channels x taps, r feature groups

Compilers have fast code for few forms of them, to one of which `on_cpu` and `in_arithmetic` bring
an equation.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._jax import Equation, equation_values, shape_of, size_of
from ntk_train.rules.arithmetic import Arithmetic, dot_general, in_tf32_terms
from ntk_train.rules.rule import Factors

# Up to this many positions the product of patches is faster on a CPU than the convolution.
_FEW_POSITIONS = 64
# On a GPU up to this many numbers of patches, and from so many features of the output
# (experiments/results/benchmark_products.csv).
_PATCHES, _WIDE = 16_000_000, 128


def factors(equation: Equation, weight: int) -> Factors | None:
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
        seen = _patches(
            x,
            taps,
            [out_shape[axis] for axis in out_spec[2:]],
            params["window_strides"],
            padding,
            params["lhs_dilation"],
            params["rhs_dilation"],
        )  # [batch, *positions, taps, channels]
        k, c = seen.shape[-2:]
        return seen.reshape(t, k, r, c // r).transpose(2, 0, 1, 3).reshape(r, t, k * (c // r))

    # What one row of taps sees: the patches of all rows take as many times the input's memory.
    rows = range(taps[0]) if len(taps) > 1 and taps[0] > 1 else ()
    pieces = [functools.partial(seen_by, row, [1, *taps[1:]]) for row in rows]

    def g_factor(g: jax.Array) -> jax.Array:
        g = g.transpose(out_spec[0], *out_spec[2:], out_spec[1])
        return g.reshape(t, r, b).transpose(1, 0, 2)

    x_factor = functools.partial(seen_by, 0, taps)
    return Factors(r, t, a, b, 0, x_factor, g_factor, (tuple(rhs_spec), r), pieces)


def operations(equation: Equation) -> int:
    """Twice the kernel's entries of one output feature, for each number that comes out."""
    w_shape = shape_of(equation.invars[1]).shape
    features = w_shape[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * size_of(equation.outvars[0]) * math.prod(w_shape) // features


def _patches(
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


def on_cpu(equation: Equation, values: Sequence[Any]) -> list[Any]:
    """A convolution in a form that XLA's CPU compiler has fast code for.

    It brings other layouts to channels-last in the main program alone, and swaps kernel and input
    where the input is the smaller one; inside a loop the one is seven times slower and the other a
    hundred times. An input that is dilated, as in the derivative of a strided convolution, has no
    fast code at all.

    Args:
      equation: the convolution.
      values: its input and its kernel.

    Returns:
      The output, in the layout that the equation asks for.
    """
    standard = _standard(equation, values)
    x, w, params = standard.x, standard.w, standard.params
    spatial = x.ndim - 2
    if any(d > 1 for d in params["lhs_dilation"]):
        x = _dilated(x, params["padding"], params["lhs_dilation"])
        params = {**params, "padding": ((0, 0),) * spatial, "lhs_dilation": (1,) * spatial}
    convolve = functools.partial(lax.conv_general_dilated_p.bind, **params)
    out = jax.eval_shape(convolve, x, w)
    groups = params["feature_group_count"] * params["batch_group_count"]
    if groups == 1 and math.prod(out.shape[1:-1]) <= _FEW_POSITIONS:
        plain = Arithmetic(precision=params["precision"])
        return [standard.given_back(_product_of_patches(x, w, params, out, plain))]
    return [standard.given_back(convolve(x, w))]


def in_arithmetic(
    equation: Equation, values: Sequence[Any], arithmetic: Arithmetic
) -> list[jax.Array]:
    """A convolution in the form that a GPU is fastest at.

    - With a kernel of one tap it is a plain product: in float32 one and a half times as fast.
    - Of few positions it is the product of patches: cuDNN's convolutions in float32 bring their
      numbers to another layout and back.
    - XLA takes a convolution with a reversed kernel, as a backward pass has it, for the derivative
      in the input, whose code is up to three times as slow as that of the same numbers behind a
      barrier.

    Args:
      equation: the convolution.
      values: its input and its kernel.
      arithmetic: of the products.

    Returns:
      The output, in the layout that the equation asks for.
    """
    params = equation.params
    precision: Any = arithmetic.precision
    if not isinstance(precision, lax.Precision):  # XLA drops what is none
        precision = lax.Precision.HIGHEST
    if not arithmetic.on_gpu or params["feature_group_count"] * params["batch_group_count"] != 1:
        params = {**params, "precision": (precision, precision)}
        return equation_values(equation.replace(params=params), values)
    standard = _standard(equation, values)
    x, w = standard.x, standard.w
    convolve = functools.partial(lax.conv_general_dilated_p.bind, **standard.params)
    out = jax.eval_shape(convolve, x, w)
    if math.prod(w.shape[:-2]) == 1 and 0 not in out.shape:
        return [standard.given_back(_product_of_pixels(x, w, standard.params, arithmetic))]
    is_dilated = any(d > 1 for d in params["lhs_dilation"])
    terms = math.prod(w.shape[:-1])
    in_tf32 = terms <= arithmetic.longest_in_terms
    numbers = arithmetic.copies * math.prod(out.shape[:-1]) * terms
    is_small = numbers <= _PATCHES and out.shape[-1] >= _WIDE
    if is_small and not is_dilated and not in_tf32:
        y = _product_of_patches(x, w, standard.params, out, arithmetic)
        return [standard.given_back(y)]
    x, w = values
    if not is_dilated:  # of a dilated input there is no other code
        w = lax.optimization_barrier(w)
    if in_tf32:
        precision = lax.Precision.DEFAULT
        (_, c, *_), (_, i, *_), _ = params["dimension_numbers"]
        x, w = in_tf32_terms(x, w, (c, i))
    params = {**params, "precision": (precision, precision)}
    return [lax.conv_general_dilated_p.bind(x, w, **params)]


class _Standard(NamedTuple):
    """A convolution with channels innermost.

    Attributes:
      x: input [batch, *spatial, channels].
      w: kernel [*spatial, channels, features].
      params: of the equation, in this layout.
      axes: where each axis of the output belongs.
    """

    x: jax.Array
    w: jax.Array
    params: dict[str, Any]
    axes: tuple[int, ...]

    def given_back(self, y: jax.Array) -> jax.Array:
        """[batch, *positions, features] to the layout that the equation asks for."""
        return y.transpose([self.axes.index(axis) for axis in range(y.ndim)])


def _standard(equation: Equation, values: Sequence[Any]) -> _Standard:
    x, w = map(jnp.asarray, values)  # constants of a program are of NumPy
    specs = equation.params["dimension_numbers"]
    (n, c, *xs), (o, i, *ws), (out_n, out_c, *outs) = specs
    rank = x.ndim
    last = (0, rank - 1, *range(1, rank - 1))
    numbers = type(specs)(last, (rank - 1, rank - 2, *range(rank - 2)), last)
    params = {**equation.params, "dimension_numbers": numbers}
    axes = (out_n, *outs, out_c)
    return _Standard(x.transpose(n, *xs, c), w.transpose(*ws, i, o), params, axes)


def _product_of_patches(
    x: jax.Array, w: jax.Array, params: Mapping[str, Any], out: Any, arithmetic: Arithmetic
) -> jax.Array:
    """The convolution as one product of what the taps see at all positions."""
    seen = _patches(
        x,
        w.shape[:-2],
        out.shape[1:-1],
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
    )
    return dot_general(
        seen.reshape(*out.shape[:-1], math.prod(w.shape[:-1])),
        w.reshape(math.prod(w.shape[:-1]), w.shape[-1]),
        (((x.ndim - 1,), (0,)), ((), ())),
        arithmetic,
        out.dtype,
    )


def _product_of_pixels(
    x: jax.Array, w: jax.Array, params: Mapping[str, Any], arithmetic: Arithmetic
) -> jax.Array:
    """A convolution with a kernel of one tap: of fewer pixels before it, of more after it."""
    strides = params["window_strides"]
    is_strided = any(stride > 1 for stride in strides)

    def moved(pixels: jax.Array) -> jax.Array:
        pixels = _dilated(pixels, params["padding"], params["lhs_dilation"])
        return lax.slice(pixels, [0] * x.ndim, pixels.shape, [1, *strides, 1])

    # XLA's compiler ends the process where a product on a GPU takes every other pixel of its factor
    # (JAX 0.11), hence the barrier.
    y = dot_general(
        lax.optimization_barrier(moved(x)) if is_strided else x,
        w.reshape(w.shape[-2:]),
        (((x.ndim - 1,), (0,)), ((), ())),
        arithmetic,
        params["preferred_element_type"],
    )
    return y if is_strided else moved(y)


def _dilated(
    x: jax.Array, padding: Sequence[tuple[int, int]], dilation: Sequence[int]
) -> jax.Array:
    """[batch, *spatial, channels] with zeros between and around; negative padding crops."""
    edges = [(low, high, d - 1) for (low, high), d in zip(padding, dilation, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
