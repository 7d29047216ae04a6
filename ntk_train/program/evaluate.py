"""Evaluates the equations of a program, in the form that is fast on the device at hand."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.sharding import AxisType

from ntk_train._jax import (
    Equation,
    body_of_call,
    custom_jvp_call_p,
    custom_vjp_call_p,
    equation_values,
    inner_programs,
    linear_solve_p,
    program_by,
    scan_body,
    scan_p,
    shape_of,
)
from ntk_train.program.rounding import factor_bits
from ntk_train.rules import rule_of
from ntk_train.rules.arithmetic import AS_WRITTEN, Arithmetic


def values_of(
    equation: Equation, values: Sequence[Any], arithmetic: Arithmetic = AS_WRITTEN
) -> list[Any]:
    """The outputs of one equation for the values of its inputs.

    Products of float32 numbers are computed in `arithmetic`, also inside of calls and scans, unless
    the equation asks for less. Those in the branches of conditions, and in loops whose length is
    not known, are computed as they are written.
    """
    rule, equation = rule_of(equation), _without_mesh(equation)
    if not arithmetic.is_as_written:
        if rule.in_arithmetic is not None and _is_float32(equation, arithmetic):
            return rule.in_arithmetic(equation, values, arithmetic)
        if _has_products(equation):
            if equation.primitive is scan_p:
                return _scan_values(equation, values, arithmetic)
            body = None if equation.primitive is linear_solve_p else body_of_call(equation)
            if body is not None:
                return _call_values(equation, body, values, arithmetic)
    if rule.on_cpu is not None and jax.default_backend() == "cpu":
        return rule.on_cpu(equation, values)
    return equation_values(equation, values)


def program_values(
    jaxpr: Any,
    consts: Sequence[Any],
    inputs: Sequence[Any],
    arithmetic: Arithmetic = AS_WRITTEN,
) -> list[Any]:
    """The outputs of a program for its inputs."""
    evaluated = functools.partial(values_of, arithmetic=arithmetic)
    return program_by(evaluated, jaxpr, consts, inputs)


def _without_mesh(equation: Equation) -> Equation:
    """Without a sharding of the result that divides nothing, as products in a `shard_map` have.

    JAX has no batches of some convolutions that say how their result is sharded.
    """
    sharding = equation.params.get("out_sharding")
    if sharding is None or AxisType.Explicit in sharding.mesh.axis_types:
        return equation
    return equation.replace(params={**equation.params, "out_sharding": None})


def _is_float32(equation: Equation, arithmetic: Arithmetic) -> bool:
    """Whether the factors are float32 and keep all of their bits, or are to be rounded likewise."""
    if any(shape_of(v).dtype != jnp.float32 for v in equation.invars):
        return False
    if equation.params.get("out_sharding") is not None:
        return False  # on a mesh in Explicit mode it says how the result is sharded
    own = equation.params["precision"]
    is_convolution = equation.primitive is lax.conv_general_dilated_p
    bits = factor_bits(own, jax.default_backend(), is_convolution=is_convolution)
    return bits is None or own == arithmetic.precision


def _has_products(equation: Equation) -> bool:
    """Whether there is a product inside of an equation."""
    return any(
        rule_of(inner).in_arithmetic is not None or _has_products(inner)
        for body in inner_programs(equation)
        for inner in body.eqns
    )


def _call_values(
    equation: Equation,
    body: tuple[Any, list[Any]],
    values: Sequence[Any],
    arithmetic: Arithmetic,
) -> list[Any]:
    """The outputs of a call, whose body is evaluated in an arithmetic.

    If it has a derivative of its own, it keeps that: kernels are differentiated too.
    """

    def call(*values: Any) -> list[Any]:
        return program_values(*body, values, arithmetic)

    def as_written(values: Sequence[Any], chosen: Sequence[int]) -> Callable[..., list[Any]]:
        def of_some(*some: Any) -> list[Any]:
            replaced = dict(zip(chosen, some, strict=True))
            full = [replaced.get(i, value) for i, value in enumerate(values)]
            return equation_values(equation, full, differentiated=True)

        return of_some

    def jvp(values: Sequence[Any], tangents: Sequence[Any]) -> Any:
        chosen = [i for i, t in enumerate(tangents) if not isinstance(t, SymbolicZero)]
        some, of_some = ([own[i] for i in chosen] for own in (values, tangents))
        return jax.jvp(as_written(values, chosen), some, of_some)

    def forward(*inputs: Any) -> Any:
        values, chosen = [v.value for v in inputs], [i for i, v in enumerate(inputs) if v.perturbed]
        outputs, vjp = jax.vjp(as_written(values, chosen), *(values[i] for i in chosen))
        # What is kept says by its structure which inputs were chosen.
        return outputs, (vjp, [() if v.perturbed else None for v in inputs])

    def backward(kept: Any, cotangents: Sequence[Any]) -> tuple[Any, ...]:
        vjp, inputs = kept
        found = iter(vjp([_without_symbols(g) for g in cotangents]))
        return tuple(None if v is None else next(found) for v in inputs)

    if equation.primitive is custom_jvp_call_p:
        with_jvp = jax.custom_jvp(call)
        with_jvp.defjvp(jvp, symbolic_zeros=True)
        return with_jvp(*values)
    if equation.primitive is custom_vjp_call_p:
        with_vjp = jax.custom_vjp(call)
        with_vjp.defvjp(forward, backward, symbolic_zeros=True)
        return with_vjp(*values)
    return call(*values)


def _without_symbols(cotangent: Any) -> Any:
    if isinstance(cotangent, SymbolicZero):
        return jnp.zeros(cotangent.shape, cotangent.dtype)
    return cotangent


def _scan_values(equation: Equation, values: Sequence[Any], arithmetic: Arithmetic) -> list[Any]:
    """The outputs of a scan, whose body is evaluated in an arithmetic."""
    jaxpr, consts, num_consts, num_carry = scan_body(equation)
    params = equation.params
    # A carry may start as a Python number.
    first, last = num_consts, num_consts + num_carry
    init = [
        value if hasattr(value, "dtype") else jnp.asarray(value, shape_of(v).dtype)
        for value, v in zip(values[first:last], jaxpr.invars[first:last], strict=True)
    ]
    constants, slices = values[:first], list(values[last:])

    def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        inputs = [*constants, *carry, *slices]
        outputs = program_values(jaxpr, consts, inputs, arithmetic)
        return outputs[:num_carry], outputs[num_carry:]

    final, stacked = lax.scan(
        step,
        init,
        slices,
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*final, *stacked]
