"""Parameters of eight bits and less: their derivatives in float32.

A derivative in a float8 array is a float8 array, of three significant bits, in which what is above
448 is NaN. But networks that store parameters so compute with wider ones: f is evaluated with
float32 parameters of the same values up to where it converts them itself.

>>> import jax, jax.numpy as jnp
>>> w = jnp.full((2, 1), 0.5, jnp.float8_e4m3fn)
>>> f, (wide,) = in_float32(lambda theta, x: x @ theta[0].astype(jnp.float32), [w])
>>> jax.jacobian(f)([wide], jnp.full((1, 2), 0.3))[0].ravel()
Array([0.3, 0.3], dtype=float32)
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._jax import (
    Equation,
    Literal,
    called_program,
    equation_values,
    scan_body,
    scan_p,
    shape_of,
)
from ntk_train._types import KernelProblem, PyTree
from ntk_train.rules import rule_of

_Function = Callable[[list[jax.Array], PyTree], PyTree]


def in_float32(f: _Function, theta: list[jax.Array]) -> tuple[_Function, list[jax.Array]]:
    """The function of float32 parameters, and these; both as they are if none is narrow."""
    if not any(map(_is_narrow, theta)):
        return f, theta

    def wide_f(wide: list[jax.Array], x: PyTree) -> PyTree:
        narrow = [leaf.astype(old.dtype) for leaf, old in zip(wide, theta, strict=True)]
        closed, shapes = jax.make_jaxpr(f, return_shape=True)(narrow, x)
        values = _values(closed.jaxpr, closed.consts, [*wide, *jax.tree.leaves(x)])
        outputs = _as_declared(closed.jaxpr.outvars, values)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return wide_f, [leaf.astype(jnp.float32) if _is_narrow(leaf) else leaf for leaf in theta]


def widened(problem: KernelProblem) -> KernelProblem:
    """The same problem, of float32 in place of narrower parameters."""
    f1, theta = in_float32(problem.f1, problem.theta)
    f2 = f1 if problem.f2 is problem.f1 else in_float32(problem.f2, problem.theta)[0]
    return dataclasses.replace(problem, f1=f1, f2=f2, theta=theta)


def _is_narrow(v: Any) -> bool:
    return jnp.issubdtype(v.dtype, jnp.floating) and jnp.finfo(v.dtype).bits < 16


def _values(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """The outputs of a program of which narrow variables have wide values."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else env[v]

    for equation in jaxpr.eqns:
        values = [read(v) for v in equation.invars]
        env.update(zip(equation.outvars, _outputs(equation, values), strict=True))
    return [read(v) for v in jaxpr.outvars]


def _outputs(equation: Equation, values: list[Any]) -> list[Any]:
    """The outputs of an equation, wide where they are its inputs converted or rearranged."""
    is_wide = [
        _is_narrow(shape_of(v)) and not _is_narrow(value)
        for v, value in zip(equation.invars, values, strict=True)
    ]
    if not any(is_wide):
        return equation_values(equation, values)
    called = called_program(equation)
    if called is not None:
        return _values(*called, values)
    if equation.primitive is scan_p:
        return _scanned(equation, values)
    if equation.primitive is lax.convert_element_type_p:
        old, new = shape_of(equation.invars[0]).dtype, shape_of(equation.outvars[0]).dtype
        if old == new or not _is_narrow(shape_of(equation.outvars[0])):
            return [values[0] if old == new else values[0].astype(new)]
    if rule_of(equation).rearranges:
        return equation_values(equation, values)
    return equation_values(equation, _as_declared(equation.invars, values))


def _scanned(equation: Equation, values: list[Any]) -> list[Any]:
    """The outputs of a scan over narrow parameters; what it carries is as it was."""
    body, consts, num_consts, num_carry = scan_body(equation)
    split = num_consts + num_carry
    carried = slice(num_consts, split)
    init = _as_declared(equation.invars[carried], values[carried])

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        outputs = _values(body, consts, [*values[:num_consts], *carry, *x])
        outputs = _as_declared(body.outvars, outputs)
        return outputs[:num_carry], outputs[num_carry:]

    options = {key: equation.params[key] for key in ("length", "reverse", "unroll")}
    carry, rows = lax.scan(step, init, values[split:], **options)
    return [*carry, *rows]


def _as_declared(variables: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """Wide values in the dtypes of their variables."""
    return [
        value.astype(shape_of(v).dtype) if _is_narrow(shape_of(v)) else value
        for v, value in zip(variables, values, strict=True)
    ]
