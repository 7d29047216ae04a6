"""Integers of any type as places along an axis.

A comparison such as `index < 256` is wrong for a uint8 index: the bound takes the type of the
index, in which it is 0. The same holds for -1 as a mark in an unsigned type.
"""

from typing import Any

import jax
import jax.numpy as jnp


def places(index: Any, size: int) -> tuple[jax.Array, jax.Array]:
    """Integers as places along an axis of a size.

    Args:
      index: integers of any type and shape.
      size: of the axis.

    Returns:
      The integers clipped to 0 .. size - 1, as int32, and which of them were in this range.
    """
    index = jnp.asarray(index)
    info = jnp.iinfo(index.dtype)
    first = jnp.asarray(0, index.dtype)
    last = jnp.asarray(min(max(size - 1, 0), info.max), index.dtype)
    in_range = (index >= first) & (index <= last) & (size > 0)
    return jnp.clip(index, first, last).astype(jnp.int32), in_range
