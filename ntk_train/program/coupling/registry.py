"""How each primitive carries the dependence on examples from its inputs to its outputs.

A rule takes an equation, the dependence of each of its inputs, and their values as far as they are
known indices; it returns the dependence of each output, or the one of all. A primitive without a
rule has outputs of which nothing is known.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ntk_train._jax import Equation, public_primitive, shape_of
from ntk_train.program.coupling.dependence import Dependence

Values = Sequence[np.ndarray | None]
Rule = Callable[[Equation, Sequence[Dependence], Values], Dependence | Sequence[Dependence]]

RULES: dict[Any, Rule] = {}


def rule(names: str) -> Callable[[Rule], Rule]:
    """Makes a function the rule of the primitives of these names."""

    def add(function: Rule) -> Rule:
        for name in names.split():
            RULES[public_primitive(name)] = function
        return function

    return add


def rule_of(equation: Equation) -> Rule | None:
    """The rule of an equation's primitive; by its name where JAX does not publish it."""
    return RULES.get(equation.primitive) or RULES.get(equation.primitive.name)


def dims(v: Any) -> tuple[int, ...]:
    """The shape of a variable or literal."""
    return shape_of(v).shape
