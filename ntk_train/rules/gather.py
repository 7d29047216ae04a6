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
    """Whole rows of a table, along any one of its axes."""
    numbers = equation.params["dimension_numbers"]
    table = shape_of(equation.invars[0]).shape
    if weight != 0 or len(numbers.start_index_map) != 1 or numbers.operand_batching_dims:
        return None
    (axis,) = numbers.start_index_map
    rows = tuple(1 if i == axis else size for i, size in enumerate(table))
    if numbers.collapsed_slice_dims != (axis,) or equation.params["slice_sizes"] != rows:
        return None
    size = table[axis]
    mode = equation.params["mode"]

    def x_factor(index: jax.Array) -> jax.Array:
        row, in_range = places(index.reshape(1, -1, 1), size)
        if mode is lax.GatherScatterMode.CLIP:
            return row
        return jnp.where(in_range, row, jnp.asarray(-1, row.dtype))  # reads no row of the table

    def g_factor(g: jax.Array) -> jax.Array:
        t_axes = [i for i in range(g.ndim) if i not in numbers.offset_dims]
        return g.transpose(*t_axes, *numbers.offset_dims).reshape(1, t, b)

    b = shape_of(equation.invars[0]).size // size
    t = shape_of(equation.invars[1]).size
    return Factors(1, t, size, b, 1, x_factor, g_factor, ("one-hot", axis), one_hot=True)
