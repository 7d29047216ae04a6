"""The derivative of a function in its parameters, as a flat program that is linear in them.

    dy = J(theta, x) dtheta

`jax.linearize` has already dealt with nonlinearities, `custom_jvp` and `custom_vjp`; `jit` and
`remat` calls that a parameter's tangent enters are inlined here. What is left is one list of
equations over theta, x and dtheta, in which a dependency analysis is a single pass; the body of a
scan is such a list again.
(R. Novak et al., *Fast Finite Width Neural Tangent Kernel*, ICML 2022, section 3.3, works on the
same linearised program.)
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
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
    shape_of,
)
from ntk_train._types import PyTree
from ntk_train.rules import operations, rule_of


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


@dataclasses.dataclass(frozen=True, eq=False)
class LinearProgram(Block):
    """The whole program; its inputs are theta, x and dtheta, its one output is dy.

    Attributes:
      theta: variables of the parameters' leaves.
      x: variables of the leaves of one input.
      tangents: variables of dtheta, one for each leaf of theta.
      out: what dy is, an array of any shape.
    """

    num_theta: int
    num_x: int

    @functools.cached_property
    def theta(self) -> Sequence[Var]:
        """Variables of the parameters' leaves."""
        return self.inputs[: self.num_theta]

    @functools.cached_property
    def x(self) -> Sequence[Var]:
        """Variables of the leaves of one input."""
        return self.inputs[self.num_theta : self.num_theta + self.num_x]

    @functools.cached_property
    def tangents(self) -> Sequence[Var]:
        """Variables of dtheta, one for each leaf of theta."""
        return self.inputs[self.num_theta + self.num_x :]

    @property
    def out(self) -> Any:
        """What dy is, an array of any shape."""
        return self.outputs[0]

    @functools.cached_property
    def terms(self) -> frozenset[Var]:
        """Variables v with df/dv the identity, in the order of v's entries.

        dy is a sum with v as one of its terms, and v reaches dy in no other way: each variable on
        the path from v to dy is used exactly once, by an equation that adds or keeps the order of
        entries. In `h + tanh(h)` h is a term too, but df/dh is no identity.
        """
        uses: dict[Var, int] = {}
        for v in [v for equation in self.equations for v in equation.invars] + list(self.outputs):
            if not isinstance(v, Literal):
                uses[v] = uses.get(v, 0) + 1
        found = set() if isinstance(self.out, Literal) or uses[self.out] > 1 else {self.out}
        for equation in reversed(self.equations):
            if not rule_of(equation).keeps_order or equation.outvars[0] not in found:
                continue
            size = shape_of(equation.outvars[0]).size
            found.update(
                v
                for v in equation.invars
                if not isinstance(v, Literal)
                and v in self.linear
                and uses[v] == 1
                and shape_of(v).size == size
            )
        return frozenset(found)

    def depends_on_x(self, i: int) -> bool:
        """Whether the derivative in the tangent of a number is another one for another input."""
        known, tangents = set(self.x), {self.tangents[i]}
        for equation in self.equations:
            inputs = {v for v in equation.invars if not isinstance(v, Literal)}
            if inputs & tangents:
                if inputs & known:
                    return True
                tangents.update(equation.outvars)
            elif inputs & known and not self.is_linear(equation):
                known.update(equation.outvars)
        return False


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
    is_tangent = [False] * (n + m) + [True] * n
    block = _flatten(nested.jaxpr, nested.consts, is_tangent)
    fields = {field.name: getattr(block, field.name) for field in dataclasses.fields(Block)}
    return LinearProgram(**fields, num_theta=n, num_x=m)


def _flatten(jaxpr: Any, consts: Sequence[Any], is_tangent: Sequence[bool]) -> Block:
    """Inlines the calls that a tangent enters, and opens the scans."""
    shapes = [shape_of(v) for v in jaxpr.invars]
    flat = jax.make_jaxpr(lambda *values: _inline(jaxpr, consts, values, is_tangent))(*shapes)
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
    body = _flatten(jaxpr, consts, flags)
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
