"""How products of float32 numbers are computed: by float32 itself, or by faster, shorter numbers.

The tensor cores of a GPU multiply TF32 (11 bits of a number) and bfloat16 (8 bits) several times as
fast as float32. A number is nearly the sum of two or three shorter ones, and a product of two such
sums has three or six terms that count. Two things bound what that gives:

- Tensor cores cut off what they add up, where IEEE rounds, so that a sum of K positive terms comes
  out too small by about 1e-9 K of itself. Sums are cut into pieces that are added in float32.
- XLA drops such an algorithm where it is asked of a convolution. Here a convolution is three of its
  terms, side by side along the input's channels, as one convolution in TF32.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Arithmetic(NamedTuple):
    """How the products of one stage are computed whose factors are float32.

    Attributes:
      precision: what `jax.lax.dot_general` takes for it; None for what each product says.
      longest: how many terms one product adds up at most, None for any number.
      longest_of_few: the same of factors of at most `FEW_ROWS` rows, None for `longest`.
      is_cut: whether longer sums are cut into pieces, or else computed in float32. What tensor
        cores cut off makes all sums too small, so that pieces of exact terms are not as exact in
        the kernel of a deep network: nine times the error of float32 of ten layers of 1024.
      longest_in_terms: how many terms a sum of a convolution has at most that is made of three in
        TF32.
      on_gpu: whether convolutions take the forms that are fast on a GPU.
      copies: how many of each product run as one, as mapped over examples and outputs.
    """

    precision: Any = None
    longest: int | None = None
    longest_of_few: int | None = None
    is_cut: bool = True
    longest_in_terms: float = 0
    on_gpu: bool = False
    copies: int = 1

    @property
    def is_as_written(self) -> bool:
        """Whether each product is as it says itself."""
        return self.precision is None

    def of(self, *factors: Any) -> Any:
        """The precision of a product; of other numbers than float32 what keeps all bits."""
        if all(factor.dtype == jnp.float32 for factor in factors):
            return self.precision
        return lax.Precision.HIGHEST


AS_WRITTEN = Arithmetic()
"""Each product as it says itself."""

FEW_ROWS = 64
"""Up to how many rows a product of long ones keeps a GPU busy only with the pieces of its sums."""

# Rows of TF32 numbers are read 16 bytes at a time: other lengths are slower than float32, as
# experiments/results/benchmark_products.csv has it.
_ALIGNED = 4


def dot_general(
    x: jax.Array,
    y: jax.Array,
    dimension_numbers: Any,
    arithmetic: Arithmetic,
    preferred_element_type: Any = None,
) -> jax.Array:
    """As `jax.lax.dot_general`, with long sums cut into pieces.

    Args:
      x: one factor.
      y: the other.
      dimension_numbers: contracted axes and batch axes of both.
      arithmetic: of the product.
      preferred_element_type: dtype of the result.
    """
    (of_x, of_y), (batch_x, batch_y) = dimension_numbers
    precision, terms = arithmetic.of(x, y), math.prod(x.shape[axis] for axis in of_x)
    longest = arithmetic.longest
    if arithmetic.longest_of_few is not None and max(_rows(x, y, dimension_numbers)) <= FEW_ROWS:
        longest = arithmetic.longest_of_few
    is_long, pieces = longest is not None and terms > longest, 1
    is_tf32 = precision == lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    if (is_tf32 and terms % _ALIGNED) or (is_long and not arithmetic.is_cut):
        precision = lax.Precision.HIGHEST
    elif is_long and x.dtype == jnp.float32:
        # Of several contracted axes the longest is cut.
        i = max(range(len(of_x)), key=lambda i: x.shape[of_x[i]])
        pieces = _pieces(x.shape[of_x[i]], -(-terms // longest))
    if pieces == 1:
        return lax.dot_general(
            x,
            y,
            dimension_numbers,
            precision=precision,
            preferred_element_type=preferred_element_type,
        )
    x, y = _cut(x, of_x[i], pieces), _cut(y, of_y[i], pieces)
    # The axis of the pieces comes before the one that was cut.
    after_x, after_y = ([a + (a >= own[i]) for a in own] for own in (of_x, of_y))
    batches_x, batches_y = (
        [own[i], *(a + (a >= own[i]) for a in batch)]
        for own, batch in ((of_x, batch_x), (of_y, batch_y))
    )
    parts = lax.dot_general(
        x,
        y,
        ((after_x, after_y), (batches_x, batches_y)),
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    return parts.sum(axis=0)


def _rows(x: jax.Array, y: jax.Array, dimension_numbers: Any) -> tuple[int, ...]:
    """How many rows either factor of a product has, in each of its batches."""
    contracted, batch = dimension_numbers
    return tuple(
        math.prod(size for axis, size in enumerate(factor.shape) if axis not in (*own, *batches))
        for factor, own, batches in zip((x, y), contracted, batch, strict=True)
    )


def _pieces(size: int, least: int) -> int:
    """In how many equal pieces to cut an axis: at least so many, or 1 if no such number is near."""
    return next((n for n in range(least, min(4 * least, size) + 1) if size % n == 0), 1)


def _cut(x: jax.Array, axis: int, pieces: int) -> jax.Array:
    shape = x.shape
    return x.reshape(*shape[:axis], pieces, shape[axis] // pieces, *shape[axis + 1 :])


def in_tf32_terms(x: jax.Array, w: jax.Array, channels: Sequence[int]) -> tuple[Any, Any]:
    """Input and kernel of a convolution in TF32 that comes to their convolution in float32.

        (x_high + x_low) (w_high + w_low) = x_low w_high + x_high w_low + x_high w_high + ...

    Args:
      x: the input.
      w: the kernel.
      channels: the axis of the input's channels in either.

    Returns:
      Both with three times as many channels; what is left out is below the rounding of float32.
    """
    high, low = zip(*map(_two_terms, (x, w)), strict=True)
    return (
        jnp.concatenate([low[0], high[0], high[0]], channels[0]),
        jnp.concatenate([high[1], low[1], high[1]], channels[1]),
    )


def _two_terms(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A number as what TF32 keeps of it and the rest.

    Not by a conversion there and back, which XLA leaves out.
    """
    high = lax.reduce_precision(x, 8, 10)
    return high, x - high
