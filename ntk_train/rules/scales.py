"""Equations that multiply all entries of a weight by one number, so that it is still a view."""

from ntk_train._jax import Equation, size_of
from ntk_train.rules.rule import Scale


def by_nothing(_equation: Equation, _weight: int) -> list[Scale]:
    """A weight in another type, or over other devices."""
    return []


def by_minus_one(_equation: Equation, _weight: int) -> list[Scale]:
    """A negation."""
    return [Scale(-1.0)]


def by_the_other(equation: Equation, weight: int) -> list[Scale] | None:
    """A product with one number; with more, each entry has its own."""
    other = equation.invars[1 - weight]
    return [Scale(other)] if size_of(other) == 1 else None


def by_the_divisor(equation: Equation, _weight: int) -> list[Scale] | None:
    """A quotient; what is linear in it is above the line."""
    divisor = equation.invars[1]
    return [Scale(divisor, is_divisor=True)] if size_of(divisor) == 1 else None
