"""Matrix products in any arrangement: dense layers, attention's projections, batched weights.

y[r,t,b] = sum_a x[r,t,a] w[r,a,b]
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ntk_train._jax import Equation, shape_of, size_of
from ntk_train.rules import arithmetic as arithmetics
from ntk_train.rules.arithmetic import Arithmetic
from ntk_train.rules.rule import Factors


def factors(equation: Equation, weight: int) -> Factors:
    """Contracted axes are a, batch axes r, the other axes of the weight b, and of the data t."""
    data = 1 - weight
    contracted, batch = equation.params["dimension_numbers"]
    x_shape = shape_of(equation.invars[data]).shape
    w_shape = shape_of(equation.invars[weight]).shape
    # Pairs of axes in the weight's order, so that other uses of the weight agree in theta labels.
    a_pairs = sorted(zip(contracted[weight], contracted[data], strict=True))
    r_order = sorted(range(len(batch[weight])), key=lambda i: batch[weight][i])
    w_r, x_r = [batch[weight][i] for i in r_order], [batch[data][i] for i in r_order]
    w_a, x_a = [pair[0] for pair in a_pairs], [pair[1] for pair in a_pairs]
    x_t = [axis for axis in range(len(x_shape)) if axis not in (*x_a, *x_r)]
    w_b = [axis for axis in range(len(w_shape)) if axis not in (*w_a, *w_r)]
    r = math.prod(w_shape[axis] for axis in w_r)
    a = math.prod(w_shape[axis] for axis in w_a)
    b = math.prod(w_shape[axis] for axis in w_b)
    t = math.prod(x_shape[axis] for axis in x_t)

    # As a factor integers are places of ones; data that are integers are numbers.
    dtype = shape_of(equation.invars[data]).dtype
    if not jnp.issubdtype(dtype, jnp.inexact):
        dtype = jnp.promote_types(shape_of(equation.invars[weight]).dtype, jnp.float32)

    def x_factor(x: jax.Array) -> jax.Array:
        return x.astype(dtype).transpose(*x_r, *x_t, *x_a).reshape(r, t, a)

    def g_factor(g: jax.Array) -> jax.Array:  # the output's axes: batch, left's own, right's own
        n = len(w_r)
        first = list(range(n, n + (len(x_t) if data == 0 else len(w_b))))
        second = list(range(n + len(first), g.ndim))
        own_t, own_b = (first, second) if data == 0 else (second, first)
        return g.transpose(*r_order, *own_t, *own_b).reshape(r, t, b)

    return Factors(r, t, a, b, data, x_factor, g_factor, (tuple(w_r), tuple(w_a), tuple(w_b)))


def operations(equation: Equation) -> int:
    """Twice the contracted entries, for each number that comes out."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = shape_of(equation.invars[0]).shape
    return 2 * size_of(equation.outvars[0]) * math.prod(shape[axis] for axis in contracted)


def in_arithmetic(
    equation: Equation, values: Sequence[Any], arithmetic: Arithmetic
) -> list[jax.Array]:
    """The same product."""
    params = equation.params
    x, y = values
    return [
        arithmetics.dot_general(
            x, y, params["dimension_numbers"], arithmetic, params["preferred_element_type"]
        )
    ]
