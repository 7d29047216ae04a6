"""The derivative of a program, found equation by equation, and once for all that are alike.

`jax.linearize` takes as long for each of a hundred equal layers as for the first. Here it gets one
equation of each kind: of one primitive, with the same parameters, shapes and inputs that have a
tangent. What it makes of it, by `custom_jvp` and `custom_vjp` where the equation has them, is
copied for the others.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntk_train._jax import Equation, Literal, Var, equation_values, source_line
from ntk_train.program.block import Block, Scan, flattened


def derivative_of(jaxpr: Any, consts: Sequence[Any], num_theta: int) -> Block:
    """The block whose output is the tangent of a program's one output.

    Args:
      jaxpr: the program, without effects: equations that have some depend on more than inputs.
      consts: of the jaxpr.
      num_theta: how many inputs have a tangent; the tangents are the block's last inputs.
    """
    grown = _Grown(dict(zip(jaxpr.constvars, consts, strict=True)))
    tangents = [Var(v.aval) for v in jaxpr.invars[:num_theta]]
    grown.tangents.update(zip(jaxpr.invars, tangents, strict=False))
    grown.linear.update(tangents)
    for equation in jaxpr.eqns:
        grown.add(equation)
    (out,) = map(grown.tangent_of, jaxpr.outvars)
    return Block(
        inputs=[*jaxpr.invars, *tangents],
        outputs=[out],
        consts=grown.consts,
        equations=grown.without_unused(out),
        linear=frozenset(grown.linear),
        scans=grown.scans,
    )


class _Rule(NamedTuple):
    """The derivative of an equation.

    Attributes:
      block: from its inputs, and the tangents of some, to its outputs and the tangents of inexact
        ones.
      lines: the `id` of equations that are from a line inside of a call or a `custom_jvp`. All
        others are from the line of the equation at hand.
    """

    block: Block
    lines: Container[int]


class _Grown:
    """What there is of a block: the equations of a program so far, and their derivatives.

    Attributes:
      tangents: of the program's variables that have one.
      consts, equations, linear, scans: as those of `Block`.
    """

    def __init__(self, consts: dict[Var, Any]) -> None:
        self.tangents: dict[Any, Any] = {}
        self.consts = consts
        self.equations: list[Equation] = []
        self.linear: set[Var] = set()
        self.scans: dict[int, Scan] = {}
        self._names: dict[Var, Any] = {}  # in the block, of the program's variables made by a rule
        self._rules: dict[Any, _Rule] = {}

    def tangent_of(self, v: Any) -> Any:
        """The tangent of a variable, made of zeros where it has none."""
        if _in(v, self.tangents):
            return self.tangents[v]
        zeros = jax.make_jaxpr(lambda: jnp.zeros(v.aval.shape, v.aval.dtype))()
        self.consts.update(zip(zeros.jaxpr.constvars, zeros.consts, strict=True))
        self.equations += zeros.jaxpr.eqns
        return zeros.jaxpr.outvars[0]

    def add(self, equation: Equation) -> None:
        """Adds an equation of the program, with its derivative where a tangent enters."""
        inputs = [_renamed(self._names, v) for v in equation.invars]
        has_tangent = [_in(v, self.tangents) for v in equation.invars]
        if not any(has_tangent) or not any(map(_is_inexact, equation.outvars)):
            self.equations.append(equation.replace(invars=inputs))
            return
        rule = self._rule_of(equation, has_tangent)
        pairs = zip(equation.invars, has_tangent, strict=True)
        inputs += [self.tangents[v] for v, yes in pairs if yes]
        names = self._copy(rule, inputs, equation)
        outputs = [_renamed(names, v) for v in rule.block.outputs]
        self._names.update(zip(equation.outvars, outputs, strict=False))
        inexact = [v for v in equation.outvars if _is_inexact(v)]
        of_inexact = zip(inexact, rule.block.outputs[len(outputs) - len(inexact) :], strict=True)
        # Of others the tangent is known to be zero, as of what is rounded.
        self.tangents.update(
            (v, names[out]) for v, out in of_inexact if _in(out, rule.block.linear)
        )

    def without_unused(self, out: Any) -> list[Equation]:
        """The equations but for tangents that do not reach this one: those of what is rounded."""
        needed, kept = set[Any]() if isinstance(out, Literal) else {out}, list[Equation]()
        for equation in reversed(self.equations):
            if not any(v in self.linear for v in equation.outvars):
                kept.append(equation)
            elif any(v in needed for v in equation.outvars):
                kept.append(equation)
                needed.update(v for v in equation.invars if not isinstance(v, Literal))
        return kept[::-1]

    def _rule_of(self, equation: Equation, has_tangent: Sequence[bool]) -> _Rule:
        """The derivative of an equation, found for one that is alike."""
        avals = tuple(v.aval for v in equation.invars)
        key = equation.primitive, tuple(equation.params.items()), avals, tuple(has_tangent)
        try:
            if key in self._rules:
                return self._rules[key]
        except TypeError:  # a parameter has no hash
            return _rule(equation, has_tangent)
        rule = _rule(equation, has_tangent)
        if not rule.block.scans:  # what is in the body of a scan is told apart by its identity
            self._rules[key] = rule
        return rule

    def _copy(self, rule: _Rule, inputs: Sequence[Any], equation: Equation) -> Mapping[Var, Any]:
        """Adds a rule with these inputs, and returns the names of its variables."""
        block = rule.block
        names: dict[Var, Any] = dict(zip(block.inputs, inputs, strict=True))
        self.consts.update(block.consts)
        for inner in block.equations:
            names.update((v, Var(v.aval)) for v in inner.outvars)
            has_line = id(inner) in rule.lines
            copied = inner.replace(
                invars=[_renamed(names, v) for v in inner.invars],
                outvars=[names[v] for v in inner.outvars],
                source_info=inner.source_info if has_line else equation.source_info,
            )
            self.equations.append(copied)
            if block.is_linear(inner):
                self.linear.update(copied.outvars)
            if id(inner) in block.scans:
                self.scans[id(copied)] = block.scans[id(inner)]
        return names


def _rule(equation: Equation, has_tangent: Sequence[bool]) -> _Rule:
    """Has JAX linearise one equation in the inputs that have a tangent."""

    def rule(*values: Any) -> list[Any]:
        inputs = values[: len(has_tangent)]
        chosen = [i for i, yes in enumerate(has_tangent) if yes]

        def outputs_of(some: list[Any]) -> list[Any]:
            replaced = dict(zip(chosen, some, strict=True))
            full = [replaced.get(i, v) for i, v in enumerate(inputs)]
            return equation_values(equation, full, differentiated=True)

        outputs, derivative = jax.linearize(outputs_of, [inputs[i] for i in chosen])
        tangents = derivative(list(values[len(has_tangent) :]))
        pairs = zip(equation.outvars, tangents, strict=True)
        return [*outputs, *(tangent for v, tangent in pairs if _is_inexact(v))]

    avals = [v.aval for v in equation.invars]
    of_tangents = [aval for aval, yes in zip(avals, has_tangent, strict=True) if yes]
    nested = jax.make_jaxpr(rule)(*avals, *of_tangents)
    is_tangent = [False] * len(avals) + [True] * len(of_tangents)
    block = flattened(nested.jaxpr, nested.consts, is_tangent)
    of_equation = equation.source_info.traceback
    lines = {
        id(inner)
        for inner in block.equations
        if inner.source_info.traceback is not of_equation and source_line(inner)
    }
    return _Rule(block, lines)


def _is_inexact(v: Any) -> bool:
    return jnp.issubdtype(v.aval.dtype, jnp.inexact)


def _in(v: Any, variables: Container[Var]) -> bool:
    return not isinstance(v, Literal) and v in variables


def _renamed(names: Mapping[Var, Any], v: Any) -> Any:
    return v if isinstance(v, Literal) else names.get(v, v)
