"""Evaluates the equations of a program, in the form that is fast on the device at hand."""

from collections.abc import Sequence
from typing import Any

import jax

from ntk_train._jax import Equation, Literal, equation_values
from ntk_train.rules import rule_of


def values_of(equation: Equation, values: Sequence[Any]) -> list[Any]:
    """The outputs of one equation for the values of its inputs."""
    on_cpu = rule_of(equation).on_cpu
    if on_cpu is not None and jax.default_backend() == "cpu":
        return on_cpu(equation, values)
    return equation_values(equation, values)


def program_values(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """The outputs of a program for its inputs."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else env[v]

    for equation in jaxpr.eqns:
        outputs = values_of(equation, [read(v) for v in equation.invars])
        env.update(zip(equation.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]
