"""A list of equations, of which some are linear in tangents: what a linear program is made of.

`jit` and `remat` calls that a tangent enters are inlined, and the body of a scan is such a list
again, so that a dependency analysis is a single pass.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ntk_train._jax import (
    Equation,
    Literal,
    Var,
    called_program,
    equation_values,
    scan_body,
    scan_p,
)
from ntk_train.rules import operations


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """A list of equations over single assignments, some of them linear in tangents.

    Attributes:
      inputs: its variables in, in order.
      outputs: its variables or literals out.
      consts: values of the variables that are constants of the trace.
      equations: in order; those that involve no tangent are the known ones.
      linear: variables that depend on a tangent, and do so linearly.
      scans: of each scan that a tangent enters and that can be opened, by the equation's `id`.
    """

    inputs: Sequence[Var]
    outputs: Sequence[Any]
    consts: Mapping[Var, Any]
    equations: Sequence[Equation]
    linear: frozenset[Var]
    scans: Mapping[int, "Scan"]

    def is_linear(self, equation: Equation) -> bool:
        """Whether a tangent enters the equation."""
        return any(v in self.linear for v in equation.outvars)

    @functools.cached_property
    def operations(self) -> int:
        """Multiplications and additions of the linear part, or of its transpose."""
        return sum(operations(equation) for equation in self.equations if self.is_linear(equation))


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """A scan whose carry is all linear, so that it can be cut inside.

    Attributes:
      body: what runs in each iteration; its inputs are constants, carry and slices, in this order.
      num_consts: how many inputs are the same in each iteration.
      num_carry: how many go from iteration to iteration.
      length: number of iterations.
      reverse: whether it runs from the last slice to the first.
      unroll: how many iterations are compiled as one.
    """

    body: Block
    num_consts: int
    num_carry: int
    length: int
    reverse: bool
    unroll: int | bool


def flattened(jaxpr: Any, consts: Sequence[Any], is_tangent: Sequence[bool]) -> Block:
    """Inlines the calls that a tangent enters, and opens the scans."""
    avals = [v.aval for v in jaxpr.invars]
    flat = jax.make_jaxpr(lambda *values: _inline(jaxpr, consts, values, is_tangent))(*avals)
    linear = {v for v, yes in zip(flat.jaxpr.invars, is_tangent, strict=True) if yes}
    scans = {}
    for equation in flat.jaxpr.eqns:
        flags = [not isinstance(v, Literal) and v in linear for v in equation.invars]
        if any(flags):
            linear.update(equation.outvars)
            scan = _open(equation, flags)
            if scan is not None:
                scans[id(equation)] = scan
    return Block(
        inputs=flat.jaxpr.invars,
        outputs=flat.jaxpr.outvars,
        consts=dict(zip(flat.jaxpr.constvars, flat.consts, strict=True)),
        equations=flat.jaxpr.eqns,
        linear=frozenset(linear),
        scans=scans,
    )


def _open(equation: Equation, is_tangent: Sequence[bool]) -> Scan | None:
    """The inside of a scan, None of any other equation and of one with a known carry."""
    if equation.primitive is not scan_p:
        return None
    jaxpr, consts, num_consts, num_carry = scan_body(equation)
    carry = jaxpr.outvars[:num_carry]
    # A carry that starts at zero, as a known constant, is linear all the same if it ends so.
    flags = list(is_tangent)
    flags[num_consts : num_consts + num_carry] = [True] * num_carry
    body = flattened(jaxpr, consts, flags)
    ends = body.outputs[: len(carry)]
    if any(not isinstance(v, Literal) and v not in body.linear for v in ends):
        return None
    params = equation.params
    return Scan(body, num_consts, num_carry, params["length"], params["reverse"], params["unroll"])


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
