"""The factors of an equation, whose shapes are those that the rule itself says.

A factor in a wrong shape would fail deep inside of a backward pass, or be contracted all the same.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp

from ntk_train._jax import Equation, shape_of, size_of
from ntk_train.errors import RuleError
from ntk_train.rules.rule import Factors
from ntk_train.rules.table import rule_of


def factors_of(equation: Equation, weight: int) -> Factors | None:
    """How an equation factors in the weight at a position, None if it has to be transposed.

    Raises:
      RuleError: the rule gives factors of other shapes than it says.
    """
    rule = rule_of(equation).factors
    if rule is None:
        return None
    shapes = tuple(map(shape_of, equation.invars)), tuple(map(shape_of, equation.outvars))
    form = equation.primitive, weight, shapes, tuple(equation.params.items())
    return _checked_once(rule, _Use(form, equation, weight))


_FactorsRule = Callable[[Equation, int], Factors | None]


@dataclasses.dataclass(frozen=True)
class _Use:
    """A weight in an equation; equal to others of the same form, for which a rule says the same."""

    form: Hashable
    equation: Equation = dataclasses.field(compare=False)
    weight: int = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=1024)  # deep networks have few forms: a check takes a millisecond
def _checked_once(rule: _FactorsRule, use: _Use) -> Factors | None:
    return checked(rule, use.equation, use.weight)


def checked(rule: _FactorsRule, equation: Equation, weight: int) -> Factors | None:
    """What a rule says of an equation, after a look at the shapes of its factors.

    Raises:
      RuleError: they are not x[r,t,a] (indices x[r,t,1] if `one_hot`), g[r,t,b] and pieces of x
        that add up along a, or the weight has not r a b entries.
    """
    factors = rule(equation, weight)
    if factors is None:
        return None
    wrong = functools.partial(_error, rule, equation, weight)
    if factors.data not in {*range(len(equation.invars))} - {weight}:
        raise wrong(factors.data, "the position of the data", "that of another input")
    r, t, a, b = factors.r, factors.t, factors.a, factors.b
    if r * a * b != size_of(equation.invars[weight]):
        raise wrong([r, a, b], "[r,a,b]", "as many entries as the weight has")
    data, cotangent = shape_of(equation.invars[factors.data]), shape_of(equation.outvars[0])

    def in_pieces(data: jax.Array) -> jax.Array:
        return jnp.concatenate([piece(data) for piece in factors.pieces], axis=-1)

    x_labels, x_shape = ("[r,t,1]", (r, t, 1)) if factors.one_hot else ("[r,t,a]", (r, t, a))
    named = [
        ("x", factors.x, data, x_labels, x_shape),
        ("g", factors.g, cotangent, "[r,t,b]", (r, t, b)),
        ("pieces", in_pieces, data, "[r,t,a] together", (r, t, a)),
    ]
    for name, function, of, labels, shape in named if factors.pieces else named[:2]:
        try:
            made = jax.eval_shape(function, of)
        except Exception as error:
            raise wrong(error, name, f"{labels} = {list(shape)}") from error
        if made.shape != shape:
            raise wrong(_text(made), name, f"{labels} = {list(shape)}")
        if name == "x" and factors.one_hot and not jnp.issubdtype(made.dtype, jnp.signedinteger):
            raise wrong(_text(made), name, "indices of a signed type, with -1 for none")
    return factors


def _error(
    rule: _FactorsRule, equation: Equation, weight: int, got: object, name: str, expected: str
) -> RuleError:
    inputs = " and ".join(_text(shape_of(v)) for v in equation.invars)
    return RuleError(
        f"The rule {rule.__module__}.{rule.__qualname__} is wrong for {equation.primitive} of "
        f"{inputs}, with input {weight} as the weight, to {_text(shape_of(equation.outvars[0]))}: "
        f"{name} gives {got}; expected {expected}."
    )


def _text(shape: Any) -> str:
    return f"{shape.dtype}{list(shape.shape)}"
