"""Which primitives have a Jacobian that factors, and how: one function per primitive.

A rule looks at one equation, in which a weight meets data, and says how its Jacobian factors:

    dy[r,t,b] = sum_a x[r,t,a] dw[r,a,b]     so that     df/dw[r,a,b] = sum_t g[r,t,b] x[r,t,a]

with g = df/dy. It returns a `Factors`, or None where this equation does not factor so; then, as for
every primitive without a rule, the Jacobian comes from a transposition, which is always right.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ntk_train._jax import Equation


@dataclasses.dataclass(frozen=True, eq=False)
class Factors:
    """How the Jacobian of one equation factors; sizes and the two functions that bring to labels.

    Attributes:
      r: size of the labels that input, weight and output share.
      t: positions that share the weight.
      a: input features of the weight.
      b: output features of the weight.
      data: position of the data among the equation's inputs.
      x: from the data to the factor x[r,t,a].
      g: from a cotangent of the output to the factor g[r,t,b].
      weight_axes: says which axes of the weight are r, a and b, and in which order; uses of one
        weight with the same axes have the same theta labels.
      pieces: as `x`, for consecutive parts of a, each on its own; none if they are all of it.
      one_hot: whether x[r,t,1] is the index at which one a is 1, or -1 where none is.
    """

    r: int
    t: int
    a: int
    b: int
    data: int
    x: Callable[[jax.Array], jax.Array]
    g: Callable[[jax.Array], jax.Array]
    weight_axes: Any
    pieces: Sequence[Callable[[jax.Array], jax.Array]] = ()
    one_hot: bool = False


Rule = Callable[[Equation, int], Factors | None]
"""From an equation and the position of the weight among its inputs to the factors."""

RULES: dict[Any, Rule] = {}


def register(primitive: Any) -> Callable[[Rule], Rule]:
    """Makes a function the rule of a primitive."""

    def add(rule: Rule) -> Rule:
        assert primitive not in RULES, f"{primitive} has a rule already"
        RULES[primitive] = rule
        return rule

    return add


def factors_of(equation: Equation, weight: int) -> Factors | None:
    """The factors of an equation in the weight at a position, None if it has to be transposed."""
    rule = RULES.get(equation.primitive)
    return None if rule is None else rule(equation, weight)
