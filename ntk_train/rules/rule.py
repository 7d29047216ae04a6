"""What the library knows of one primitive: the record `Rule`, and those that it speaks of.

A rule looks at one equation, and at the position of the one input that is a tangent: a weight, or a
view of one. See README.md for how to add one.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from ntk_train._jax import Equation, size_of
from ntk_train.rules.arithmetic import Arithmetic


@dataclasses.dataclass(frozen=True, eq=False)
class Factors:
    """How the Jacobian of one equation factors; sizes and the functions that bring to labels.

        dy[r,t,b] = sum_a x[r,t,a] dw[r,a,b]   so that   df/dw[r,a,b] = sum_t g[r,t,b] x[r,t,a]

    with g = df/dy.

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
      reorders: whether b has another order than the entries of the output, where r and t are 1.
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
    reorders: bool = False
    one_hot: bool = False


class Scale(NamedTuple):
    """One number by which all entries of a weight are multiplied.

    Attributes:
      number: a number, or the variable or literal of one entry that holds it.
      is_divisor: whether the entries are divided by it instead.
    """

    number: Any
    is_divisor: bool = False


def one_for_each_result(equation: Equation) -> int:
    """One operation for each number that comes out."""
    return sum(map(size_of, equation.outvars))


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """What is known of one primitive; what is not said of it is not assumed.

    Attributes:
      factors: from an equation and the position of the weight, which meets data there, to how the
        Jacobian factors; None where this equation does not factor. Without it, the Jacobian comes
        from a transposition of the program, which is always right.
      rearranges: whether its outputs are entries of its first input at other places, of any dtype.
        They are a view of a weight if it is the only input and has no fewer entries than they.
      scales: from an equation and the position of the weight to the numbers by which each entry is
        multiplied and stays at its place; None where this equation does more than that.
      keeps_order: whether an input with as many entries as the output is passed on or added, entry
        by entry in the order of both.
      entrywise: whether each entry of an input goes to one entry of the output, so that the
        Jacobian in a weight that meets data has few numbers and needs no factors. Of primitives
        with several inputs; the others never meet data.
      operations: multiplications and additions of an equation, or of its transpose.
      on_cpu: from an equation and the values of its inputs to those of its outputs, in a form that
        a CPU is fast at, where the equation as it is is not.
      in_arithmetic: of a product from an equation and the values of its inputs, all in float32, to
        those of its outputs in another arithmetic than the equation's own.
    """

    factors: Callable[[Equation, int], Factors | None] | None = None
    rearranges: bool = False
    scales: Callable[[Equation, int], Sequence[Scale] | None] | None = None
    keeps_order: bool = False
    entrywise: bool = False
    operations: Callable[[Equation], int] = one_for_each_result
    on_cpu: Callable[[Equation, Sequence[Any]], list[Any]] | None = None
    in_arithmetic: Callable[[Equation, Sequence[Any], Arithmetic], list[Any]] | None = None
