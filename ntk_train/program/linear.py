"""The derivative of a function in its parameters, as a flat program that is linear in them.

    dy = J(theta, x) dtheta

`jax.linearize` has already dealt with nonlinearities, `custom_jvp` and `custom_vjp`; `jit` and
`remat` calls that a parameter's tangent enters are inlined (block.py). What is left is one list of
equations over theta, x and dtheta, in which a dependency analysis is a single pass; the body of a
scan is such a list again.
(R. Novak et al., *Fast Finite Width Neural Tangent Kernel*, ICML 2022, section 3.3, works on the
same linearised program.)
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ntk_train._jax import Literal, Var, equation_values, program_by, shape_of
from ntk_train._types import PyTree
from ntk_train.program.block import Block, flattened
from ntk_train.program.derivative import derivative_of
from ntk_train.rules import rule_of

# From so many equations on, most are like others, and it takes less time to find the derivative of
# each kind once than to have JAX find all of them.
MANY = 1000


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
    def output_terms(self) -> frozenset[Var]:
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
    f: Callable[[list[jax.Array], PyTree], jax.Array],
    theta: list[jax.Array],
    x: PyTree,
    many: int | None = None,
) -> LinearProgram:
    """Linearises f at theta for one input x; arrays, tracers or shapes will do.

    From `many` equations on, or `MANY`, their derivatives are found kind by kind.
    """
    x_leaves, x_tree = jax.tree.flatten(x)
    n, m = len(theta), len(x_leaves)

    def on_leaves(*leaves: Any) -> jax.Array:
        return f(list(leaves[:n]), jax.tree.unflatten(x_tree, leaves[n:]))

    closed = jax.make_jaxpr(on_leaves)(*theta, *x_leaves)
    try:
        if any(equation.effects for equation in closed.eqns):
            block = _derivative_as_a_whole(on_leaves, theta, x_leaves)
        elif len(closed.eqns) < (MANY if many is None else many):
            traced = functools.partial(_values, closed)
            block = _derivative_as_a_whole(traced, theta, x_leaves)
        else:
            block = derivative_of(closed.jaxpr, closed.consts, n)
    except Exception:  # of a function without a derivative: an error inside f says more
        block = _derivative_as_a_whole(on_leaves, theta, x_leaves)
    fields = {field.name: getattr(block, field.name) for field in dataclasses.fields(Block)}
    return LinearProgram(**fields, num_theta=n, num_x=m)


def _values(closed: Any, *values: Any) -> Any:
    """The output of a function that has been traced: f itself takes longer to run."""
    evaluated = functools.partial(equation_values, differentiated=True)
    (output,) = program_by(evaluated, closed.jaxpr, closed.consts, values)
    return output


def _derivative_as_a_whole(
    f: Callable[..., jax.Array], theta: list[jax.Array], x: list[Any]
) -> Block:
    """The derivative of f, for which JAX linearises it as a whole."""
    n, m = len(theta), len(x)

    def tangent(*leaves: Any) -> jax.Array:
        _, derivative = jax.linearize(lambda *theta: f(*theta, *leaves[n : n + m]), *leaves[:n])
        return derivative(*leaves[n + m :])

    nested = jax.make_jaxpr(tangent)(*theta, *x, *theta)
    return flattened(nested.jaxpr, nested.consts, [False] * (n + m) + [True] * n)
