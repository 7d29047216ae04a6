"""Convolutions: dense layers of the patches that the kernel's taps see.

y[r,t,b] = sum_a x[r,t,a] w[r,a,b],   t output positions, a = channels x taps, r feature groups

Of a transposed convolution these patches are mostly zeros. There t are the positions of the input,
a its channels, and b = taps x output features, which are added up where they overlap.

Compilers have fast code for few forms of them, to one of which `on_cpu` and `in_arithmetic` bring
an equation.
"""

import functools
import itertools
import math
from collections.abc import Sequence
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
    if _reads_inputs(equation):
        return _factors_at_inputs(equation)
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
        padding = list(params["padding"])
        if first:
            low, high = padding[0]
            padding[0] = (low - first * params["rhs_dilation"][0], high)
        seen = _patches(
            _channels_last(lhs_spec, x),
            taps,
            [out_shape[axis] for axis in out_spec[2:]],
            params["window_strides"],
            padding,
            params["lhs_dilation"],
            params["rhs_dilation"],
        )
        return _by_groups(seen, r)

    # What one row of taps sees: the patches of all rows take as many times the input's memory.
    rows = range(taps[0]) if len(taps) > 1 and taps[0] > 1 else ()
    pieces = [functools.partial(seen_by, row, [1, *taps[1:]]) for row in rows]

    def g_factor(g: jax.Array) -> jax.Array:
        return _by_groups(_channels_last(out_spec, g)[..., None, :], r)

    x_factor = functools.partial(seen_by, 0, taps)
    return Factors(r, t, a, b, 0, x_factor, g_factor, (tuple(rhs_spec), r, "outputs"), pieces)


def _reads_inputs(equation: Equation) -> bool:
    """Whether the positions t are those of the input: where it is dilated, or padded by as much.

    Patches of such an input are mostly zeros. What its kernel's taps add to are patches of the
    output, of which each number is in as many as it has terms.
    """
    lhs_spec, _, out_spec = equation.params["dimension_numbers"]
    shapes = shape_of(equation.invars[0]).shape, shape_of(equation.outvars[0]).shape
    inputs, outputs = (
        math.prod(shape[axis] for axis in spec[2:])
        for shape, spec in zip(shapes, (lhs_spec, out_spec), strict=True)
    )
    return 0 < 2 * inputs <= outputs


def _factors_at_inputs(equation: Equation) -> Factors:
    """With the positions of the input as t, its channels as a, and taps x output features as b."""
    params = equation.params
    lhs_spec, rhs_spec, out_spec = params["dimension_numbers"]
    x_shape, w_shape = (shape_of(v).shape for v in equation.invars)
    r = params["feature_group_count"]

    def x_factor(x: jax.Array) -> jax.Array:
        return _by_groups(_channels_last(lhs_spec, x)[..., None, :], r)

    def g_factor(g: jax.Array) -> jax.Array:
        return _by_groups(_seen_by_inputs(equation, _channels_last(out_spec, g)), r)

    t = math.prod(x_shape) // x_shape[lhs_spec[1]]
    a, b = w_shape[rhs_spec[1]], w_shape[rhs_spec[0]] // r
    b *= math.prod(w_shape[axis] for axis in rhs_spec[2:])
    axes = (tuple(rhs_spec), r, "inputs")
    return Factors(r, t, a, b, 0, x_factor, g_factor, axes, reorders=True)


def _seen_by_inputs(equation: Equation, y: jax.Array) -> jax.Array:
    """The outputs that each position of the input is added to, by the taps of the kernel.

    Args:
      equation: the convolution.
      y: [batch, *outputs, features].

    Returns:
      [batch, *positions of the input, taps, features].
    """
    params = equation.params
    lhs_spec, rhs_spec, _ = params["dimension_numbers"]
    x_shape, w_shape = (shape_of(v).shape for v in equation.invars)
    taps = [w_shape[axis] for axis in rhs_spec[2:]]
    positions = [x_shape[axis] for axis in lhs_spec[2:]]
    strides, x_dilation, w_dilation = (
        params[name] for name in ("window_strides", "lhs_dilation", "rhs_dilation")
    )
    # Tap k sees position i at the output q where q stride + k w_dilation = i x_dilation + low.
    padding = []
    for axis, (low, _) in enumerate(params["padding"]):
        window = (taps[axis] - 1) * w_dilation[axis]
        length = (positions[axis] - 1) * x_dilation[axis] + window + 1
        outputs = (y.shape[1 + axis] - 1) * strides[axis] + 1
        padding.append((window - low, length - (window - low) - outputs))
    seen = _patches(y, taps, positions, x_dilation, padding, strides, w_dilation)
    return seen[..., ::-1, :]  # from the last tap to the first


def _channels_last(spec: Sequence[int], x: jax.Array) -> jax.Array:
    """[batch, *spatial, channels], from the layout that a convolution has."""
    batch, channels, *spatial = spec
    return x.transpose(batch, *spatial, channels)


def _by_groups(seen: jax.Array, r: int) -> jax.Array:
    """[batch, *positions, taps, channels] to [r, t, taps x channels of a group]."""
    *positions, k, c = seen.shape
    t = math.prod(positions)
    return seen.reshape(t, k, r, c // r).transpose(2, 0, 1, 3).reshape(r, t, k * (c // r))


def operations(equation: Equation) -> int:
    """Twice the kernel's entries of one feature, for each number of that side that has fewer."""
    x, w = equation.invars
    rhs_spec = equation.params["dimension_numbers"].rhs_spec
    w_shape = shape_of(w).shape
    if _reads_inputs(equation):
        groups = equation.params["feature_group_count"] * equation.params["batch_group_count"]
        return 2 * size_of(x) * math.prod(w_shape) // (w_shape[rhs_spec[1]] * groups)
    return 2 * size_of(equation.outvars[0]) * math.prod(w_shape) // w_shape[rhs_spec[0]]


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
    if tuple(taps) == tuple(strides) and all(d == 1 for d in w_dilation):
        return _side_by_side(x, taps, positions)
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


def _side_by_side(x: jax.Array, taps: Sequence[int], positions: Sequence[int]) -> jax.Array:
    """Patches that do not overlap: [batch, *spatial, channels] in other axes, without slices."""
    (n, *_, c), rank = x.shape, len(taps)
    sizes = [k * position for k, position in zip(taps, positions, strict=True)]
    x = lax.slice(x, [0] * x.ndim, [n, *sizes, c])
    pairs = zip(positions, taps, strict=True)
    x = x.reshape(n, *itertools.chain.from_iterable(pairs), c)
    of_positions, of_taps = range(1, 2 * rank + 1, 2), range(2, 2 * rank + 1, 2)
    x = x.transpose(0, *of_positions, *of_taps, 2 * rank + 1)
    return x.reshape(n, *positions, math.prod(taps), c)


def on_cpu(equation: Equation, values: Sequence[Any]) -> list[Any]:
    """A convolution in a form that XLA's CPU compiler has fast code for.

    It brings other layouts to channels-last in the main program alone, and swaps kernel and input
    where the input is the smaller one; inside a loop the one is seven times slower and the other a
    hundred times. Of an input that is dilated, as in the derivative of a strided convolution, few
    positions or one tap are a product with all taps, which are added up after.

    Args:
      equation: the convolution.
      values: its input and its kernel.

    Returns:
      The output, in the layout that the equation asks for.
    """
    standard = _standard(equation, values)
    x, w, params = standard.x, standard.w, standard.params
    out = standard.out
    plain = Arithmetic(precision=params["precision"])
    is_few = standard.groups == 1 and math.prod(out.shape[1:-1]) <= _FEW_POSITIONS
    if _reads_inputs(equation) and (is_few or standard.groups == standard.taps == 1):
        return [standard.given_back(_at_inputs(equation, standard, plain))]
    if is_few:
        return [standard.given_back(_product_of_patches(standard, plain))]
    return [standard.given_back(lax.conv_general_dilated_p.bind(x, w, **params))]


def in_arithmetic(
    equation: Equation, values: Sequence[Any], arithmetic: Arithmetic
) -> list[jax.Array]:
    """A convolution in the form that a GPU is fastest at.

    - With a kernel of one tap it is a plain product: in float32 one and a half times as fast.
    - Of few positions it is the product of patches, or of a dilated input a product with all taps:
      cuDNN's convolutions in float32 bring their numbers to another layout and back.
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
    standard = _standard(equation, values)
    if not arithmetic.on_gpu or standard.groups != 1 or 0 in standard.out.shape:
        params = {**params, "precision": (precision, precision)}
        return equation_values(equation.replace(params=params), values)
    x, w, out = standard.x, standard.w, standard.out
    # What a product takes of memory beside its factors, for all examples and outputs.
    inputs, outputs = (arithmetic.copies * math.prod(own.shape[:-1]) for own in (x, out))
    terms = math.prod(w.shape[:-1])
    all_taps = inputs * standard.taps * out.shape[-1]
    if _reads_inputs(equation) and (standard.taps == 1 or all_taps <= _PATCHES):
        return [standard.given_back(_at_inputs(equation, standard, arithmetic))]
    in_tf32 = terms <= arithmetic.longest_in_terms
    is_small = outputs * terms <= _PATCHES and out.shape[-1] >= _WIDE and not in_tf32
    if standard.taps == 1 or is_small:
        return [standard.given_back(_product_of_patches(standard, arithmetic))]
    x, w = values
    if all(d == 1 for d in params["lhs_dilation"]):  # of others there is no other code
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
      out: shape and dtype of the output [batch, *positions, features].
      axes: where each axis of the output belongs.
    """

    x: jax.Array
    w: jax.Array
    params: dict[str, Any]
    out: jax.ShapeDtypeStruct
    axes: tuple[int, ...]

    @property
    def groups(self) -> int:
        """Of features or of the batch."""
        return self.params["feature_group_count"] * self.params["batch_group_count"]

    @property
    def taps(self) -> int:
        """Of the kernel."""
        return math.prod(self.w.shape[:-2])

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
    axes, of = (out_n, *outs, out_c), shape_of(equation.outvars[0])
    out = jax.ShapeDtypeStruct([of.shape[axis] for axis in axes], of.dtype)
    return _Standard(x.transpose(n, *xs, c), w.transpose(*ws, i, o), params, out, axes)


def _product_of_patches(standard: _Standard, arithmetic: Arithmetic) -> jax.Array:
    """The convolution as one product of what the taps see at all positions."""
    x, w, params, out, _ = standard
    seen = _patches(
        x,
        w.shape[:-2],
        out.shape[1:-1],
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
    )
    if arithmetic.on_gpu and any(stride > 1 for stride in params["window_strides"]):
        # XLA's compiler ends the process where a product on a GPU takes every other pixel of its
        # factor (JAX 0.11).
        seen = lax.optimization_barrier(seen)
    return dot_general(
        seen.reshape(*out.shape[:-1], math.prod(w.shape[:-1])),
        w.reshape(math.prod(w.shape[:-1]), w.shape[-1]),
        (((x.ndim - 1,), (0,)), ((), ())),
        arithmetic,
        out.dtype,
    )


def _at_inputs(equation: Equation, standard: _Standard, arithmetic: Arithmetic) -> jax.Array:
    """A convolution as one product for all taps, which are added up where they overlap.

    Args:
      equation: the convolution.
      standard: what it is with channels innermost.
      arithmetic: of the product.

    Returns:
      [batch, *positions, features].
    """
    x, w, out = standard.x, standard.w, standard.out
    dtype = out.dtype
    if jnp.issubdtype(dtype, jnp.floating):  # narrow numbers are rounded once, after they are added
        dtype = jnp.promote_types(dtype, jnp.float32)
    seen = dot_general(
        x,
        w.reshape(standard.taps, *w.shape[-2:]),
        (((x.ndim - 1,), (1,)), ((), ())),
        arithmetic,
        dtype,
    )  # [batch, *positions of the input, taps, features]
    y = jax.ShapeDtypeStruct(out.shape, dtype)
    (added,) = jax.linear_transpose(functools.partial(_seen_by_inputs, equation), y)(seen)
    return added.astype(out.dtype)


def _dilated(
    x: jax.Array, padding: Sequence[tuple[int, int]], dilation: Sequence[int]
) -> jax.Array:
    """[batch, *spatial, channels] with zeros between and around; negative padding crops."""
    edges = [(low, high, d - 1) for (low, high), d in zip(padding, dilation, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
