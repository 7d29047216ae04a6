"""The derivative of a function in its parameters, as a flat program that is linear in them.

    dy = J(theta, x) dtheta

`jax.linearize` has already dealt with nonlinearities, `custom_jvp` and `custom_vjp`; `jit` and
`remat` calls that a parameter's tangent enters are inlined here. What is left is one list of
equations over theta, x and dtheta, in which a dependency analysis is a single pass.
(R. Novak et al., *Fast Finite Width Neural Tangent Kernel*, ICML 2022, section 3.3, works on the
same linearised program.)
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from ntk_train._jax import (
    Equation,
    Literal,
    Var,
    called_program,
    equation_values,
    scan_body,
    scan_p,
    shape_of,
)
from ntk_train._types import PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class LinearProgram:
    """Equations of `dy`, in order, over single assignments.

    Attributes:
      equations: all of them, those that involve no tangent included.
      consts: values of the variables that are constants of the trace.
      theta: variables of the parameters' leaves.
      x: variables of the leaves of one input.
      tangents: variables of dtheta, one for each leaf of theta.
      out: what dy is, an array of any shape.
      linear: all variables that depend on a tangent, and do so linearly.
    """

    equations: Sequence[Equation]
    consts: dict[Var, Any]
    theta: Sequence[Var]
    x: Sequence[Var]
    tangents: Sequence[Var]
    out: Any
    linear: frozenset[Var]

    @functools.cached_property
    def operations(self) -> int:
        """Multiplications and additions of dy for one dtheta, or of its transpose for one dy."""
        return sum(
            operations(equation)
            for equation in self.equations
            if any(v in self.linear for v in equation.outvars)
        )


def linear_program(
    f: Callable[[list[jax.Array], PyTree], jax.Array], theta: list[jax.Array], x: PyTree
) -> LinearProgram:
    """Linearises f at theta for one input x; arrays, tracers or shapes will do."""
    x_leaves, x_tree = jax.tree.flatten(x)
    n, m = len(theta), len(x_leaves)

    def tangent(*leaves: Any) -> jax.Array:
        x = jax.tree.unflatten(x_tree, leaves[n : n + m])
        _, derivative = jax.linearize(lambda theta: f(theta, x), list(leaves[:n]))
        return derivative(list(leaves[n + m :]))

    nested = jax.make_jaxpr(tangent)(*theta, *x_leaves, *theta)

    def inlined(*leaves: Any) -> Any:
        is_tangent = [False] * (n + m) + [True] * n
        return _inline(nested.jaxpr, nested.consts, leaves, is_tangent)

    flat = jax.make_jaxpr(inlined)(*theta, *x_leaves, *theta)
    variables = flat.jaxpr.invars
    (out,) = flat.jaxpr.outvars
    linear = set(variables[n + m :])
    for equation in flat.jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in linear for v in equation.invars):
            linear.update(equation.outvars)
    return LinearProgram(
        equations=flat.jaxpr.eqns,
        consts=dict(zip(flat.jaxpr.constvars, flat.consts, strict=True)),
        theta=variables[:n],
        x=variables[n : n + m],
        tangents=variables[n + m :],
        out=out,
        linear=frozenset(linear),
    )


def _inline(
    jaxpr: Any, consts: Sequence[Any], values: Sequence[Any], is_tangent: Sequence[bool]
) -> list[Any]:
    """Evaluates a jaxpr, stepping into calls that a tangent enters."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))
    tangents = {v for v, yes in zip(jaxpr.invars, is_tangent, strict=True) if yes}
    for equation in jaxpr.eqns:
        inputs = [v.val if isinstance(v, Literal) else env[v] for v in equation.invars]
        linear = [not isinstance(v, Literal) and v in tangents for v in equation.invars]
        called = called_program(equation) if any(linear) else None
        if called is None:
            outputs = equation_values(equation, inputs)
        else:
            outputs = _inline(*called, inputs, linear)
        env.update(zip(equation.outvars, outputs, strict=True))
        if any(linear):
            tangents.update(equation.outvars)
    return [v.val if isinstance(v, Literal) else env[v] for v in jaxpr.outvars]


def operations(equation: Equation) -> int:
    """Multiplications and additions of one equation, with a scan's body as often as it runs."""
    size = sum(shape_of(v).size for v in equation.outvars)
    if equation.primitive is lax.dot_general_p:
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = shape_of(equation.invars[0]).shape
        return 2 * size * math.prod(shape[axis] for axis in contracted)
    if equation.primitive is lax.conv_general_dilated_p:
        kernel, spec = (
            shape_of(equation.invars[1]).shape,
            equation.params["dimension_numbers"].rhs_spec,
        )
        return 2 * size * math.prod(kernel) // kernel[spec[0]]
    if equation.primitive is scan_p:
        body, *_ = scan_body(equation)
        return equation.params["length"] * sum(operations(inner) for inner in body.eqns)
    return size
