"""Embeddings: a product with one-hot rows that are never formed.

    y[t,b] = sum_v onehot[t,v] w[v,b]

The factor x is the index itself; two one-hot rows have the product 1 where their indices are equal.
"""

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._integers import places
from ntk_train._jax import Equation, shape_of
from ntk_train.rules.rule import Factors


def factors(equation: Equation, weight: int) -> Factors | None:
    """Whole rows of a table, along any one of its axes, by an index for this axis or for all.

    `vmap` of `table[i]` has an index for each axis, of which all but one can be 0 alone.
    """
    numbers, mode = equation.params["dimension_numbers"], equation.params["mode"]
    table = shape_of(equation.invars[0]).shape
    slices = equation.params["slice_sizes"]
    axes = numbers.start_index_map
    if weight != 0 or numbers.operand_batching_dims:
        return None
    if len(axes) > 1 and mode is lax.GatherScatterMode.CLIP:
        axes = [axis for axis in axes if slices[axis] != table[axis]]
    if len(axes) != 1 or numbers.collapsed_slice_dims not in ((), tuple(axes)):
        return None
    (axis,) = axes
    if slices != tuple(1 if i == axis else size for i, size in enumerate(table)):
        return None
    size = table[axis]
    position, num_indices = numbers.start_index_map.index(axis), len(numbers.start_index_map)

    def x_factor(index: jax.Array) -> jax.Array:
        index = index.reshape(1, t, num_indices)[..., position : position + 1]
        row, in_range = places(index, size)
        if mode is lax.GatherScatterMode.CLIP:
            return row
        return jnp.where(in_range, row, jnp.asarray(-1, row.dtype))  # reads no row of the table

    def g_factor(g: jax.Array) -> jax.Array:
        t_axes = [i for i in range(g.ndim) if i not in numbers.offset_dims]
        return g.transpose(*t_axes, *numbers.offset_dims).reshape(1, t, b)

    b = shape_of(equation.invars[0]).size // size
    t = shape_of(equation.invars[1]).size // num_indices
    return Factors(1, t, size, b, 1, x_factor, g_factor, ("one-hot", axis), one_hot=True)
