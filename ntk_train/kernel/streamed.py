"""The kernel layer by layer, as the backward pass goes by: the rows of a layer at a time.

The derivatives of either side are a program, of which only what the next part of the kernel needs
is computed, from the outputs back to the inputs: the factors of a layer, their contraction, and
then the cotangents of the layer before it. In memory at once are the factors of one layer.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ntk_train._jax import Equation, Literal, Var, after
from ntk_train._types import PyTree
from ntk_train.kernel.plan import Plan
from ntk_train.kernel.rows import Rows, outputs_of, rows_for
from ntk_train.program.evaluate import values_of


def streamed(
    plan: Plan,
    x1: PyTree,
    x2: PyTree | None,
    start: Any,
    contracted: Callable[[Plan, Rows, Rows], list[jax.Array]],
) -> list[jax.Array]:
    """The kernel of each group of leaves.

    Args:
      plan: of all of them.
      x1: inputs of one side.
      x2: of the other, None for the same.
      start: the first output, as for `rows_of`.
      contracted: the kernels of a plan from the rows of both sides.
    """
    sides = [_Side(plan, 0, x1, start)] + ([] if x2 is None else [_Side(plan, 1, x2, start)])
    # A part that is multiplied together with others comes in its own time: what it is made of
    # would wait with it.
    members = [(k, i) for k, own in enumerate(plan.products) for i in range(sides[0].members(k))]
    members.sort(key=sides[0].depth)
    for side in sides:
        side.order(members)
    missing = [sides[0].members(k) for k in range(len(plan.products))]
    kernels: dict[int, jax.Array] = {}
    for i, (k, _) in enumerate(members):
        for side in sides:
            side.advance(i)
        missing[k] -= 1
        if missing[k] > 0:
            continue
        rows, group = [side.rows(k) for side in sides], plan.products[k].group
        (new,) = contracted(plan.only([plan.products[k]]), rows[0], rows[-1])
        kernels[group] = kernels[group] + new if group in kernels else new
        for side in sides:
            side.wait(i, new)
    return [kernels[group] for group in plan.groups]


_Member = tuple[int, int]
"""The number of a product, and of one of its arrays."""


class _Side:
    """The rows of one side, each computed when it is asked for."""

    def __init__(self, plan: Plan, side: int, x: PyTree, start: Any) -> None:
        outputs, rows = outputs_of(plan, side, start), functools.partial(rows_for, plan, side)
        closed, shapes = jax.make_jaxpr(rows, return_shape=True)(outputs, x)
        jaxpr = closed.jaxpr
        values = [*closed.consts, outputs, *jax.tree.leaves(x)]
        self._env = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))
        self._equations: list[Equation] = jaxpr.eqns
        self._maker = {v: i for i, equation in enumerate(jaxpr.eqns) for v in equation.outvars}
        self._depths: dict[Var, int] = {}
        for equation in jaxpr.eqns:
            depth = 1 + max(map(self._depth_of, equation.invars), default=0)
            self._depths.update(dict.fromkeys(equation.outvars, depth))
        self._cotangents = _descendants(jaxpr.eqns, jaxpr.invars[0])
        whole: Rows = jax.tree.unflatten(jax.tree.structure(shapes), jaxpr.outvars)
        self._rows = whole.products
        self._steps: list[list[int]] = []
        self._waiting: list[list[Var]] = []

    def members(self, k: int) -> int:
        """How many arrays of a product come one by one."""
        return len(self._rows[k].g)

    def _of(self, member: _Member) -> list[Any]:
        """The variables of a member: its rows, and what else is kept of each example."""
        k, i = member
        return [self._rows[k].g[i], *self._rows[k].x[i : i + 1]]

    def depth(self, member: _Member) -> int:
        """How many equations, one after the other, lead to a member's rows."""
        return max(map(self._depth_of, self._of(member)))

    def _depth_of(self, v: Any) -> int:
        return 0 if isinstance(v, Literal) else self._depths.get(v, 0)

    def order(self, members: Sequence[_Member]) -> None:
        """Settles what is computed for each when they come in this order."""
        done: set[int] = set()
        last: dict[Var, int] = {}  # the last step that uses a cotangent
        for k, member in enumerate(members):
            equations = sorted(self._missing(member, done))
            done.update(equations)
            self._steps.append(equations)
            for v in [v for i in equations for v in self._equations[i].invars]:
                if not isinstance(v, Literal) and v in self._cotangents:
                    last[v] = k
        made: list[Var] = []
        for k, equations in enumerate(self._steps):
            new = [v for i in equations for v in self._equations[i].outvars]
            made = [v for v in [*made, *new] if last.get(v, 0) > k]
            self._waiting.append(made)

    def advance(self, k: int) -> None:
        """Computes the rows of the next member."""
        for i in self._steps[k]:
            equation = self._equations[i]
            outputs = values_of(equation, [self._read(v) for v in equation.invars])
            self._env.update(zip(equation.outvars, outputs, strict=True))

    def rows(self, k: int) -> Rows:
        """The rows of a product whose members are there."""
        return Rows([jax.tree.map(self._read, self._rows[k])], None)

    def wait(self, k: int, kernel: jax.Array) -> None:
        """Makes the cotangents of later steps depend on a part of the kernel.

        Or a compiler could compute all of them first.
        """
        for v in self._waiting[k]:
            self._env[v] = after(self._env[v], kernel)

    def _missing(self, member: _Member, done: set[int]) -> set[int]:
        """The equations that a member needs, without those that are done."""
        found: set[int] = set()
        new = self._of(member)
        while new:
            v = new.pop()
            i = None if isinstance(v, Literal) else self._maker.get(v)
            if i is not None and i not in done and i not in found:
                found.add(i)
                new += self._equations[i].invars
        return found

    def _read(self, v: Any) -> Any:
        return v.val if isinstance(v, Literal) else self._env[v]


def _descendants(equations: Sequence[Equation], v: Var) -> set[Var]:
    """A variable and all that is made from it."""
    found = {v}
    for equation in equations:
        if any(not isinstance(u, Literal) and u in found for u in equation.invars):
            found.update(equation.outvars)
    return found
