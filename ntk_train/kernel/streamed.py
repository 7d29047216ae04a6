"""The kernel layer by layer, as the backward pass goes by: the rows of a layer at a time.

The derivatives of either side are a program, of which only what the next part of the kernel needs
is computed, from the outputs back to the inputs: the factors of a layer, their contraction, and
then the cotangents of the layer before it. In memory at once are the factors of one layer.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax import lax

from ntk_train._jax import Equation, Literal, Var
from ntk_train._types import PyTree
from ntk_train.kernel.plan import Plan
from ntk_train.kernel.rows import Rows, one_hot_of, rows_for
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
    parts = sorted(_parts(plan), key=sides[0].depth)
    for side in sides:
        side.order(parts)
    kernels: dict[int, jax.Array] = {}
    for k, part in enumerate(parts):
        rows = [side.rows(k) for side in sides]
        (group,), (new,) = part.groups, contracted(part, rows[0], rows[-1])
        kernels[group] = kernels[group] + new if group in kernels else new
        # The cotangents wait, or a compiler could compute all of them first.
        waiting = [side.waiting(k) for side in sides]
        kernels, waiting = lax.optimization_barrier((kernels, waiting))
        for side, values in zip(sides, waiting, strict=True):
            side.resume(k, values)
    return [kernels[group] for group in plan.groups if group in kernels]


def _parts(plan: Plan) -> Iterator[Plan]:
    """What is contracted at once, each as a plan: a bundle, a stack, or stacks that are joined."""
    for group, leaves in plan.groups.items():
        groups = {group: leaves}
        for bundle in plan.bundles:
            if plan.parts[bundle[0]].leaf in leaves:
                yield dataclasses.replace(plan, groups=groups, bundles=[bundle], stacks=[])
        joined = []
        for stack in plan.stacks:
            part = plan.parts[stack[0]]
            if part.leaf not in leaves:
                continue
            if part.joined and part.way == "half_gram":
                joined.append(stack)
            else:
                yield dataclasses.replace(plan, groups=groups, bundles=[], stacks=[stack])
        if joined:
            yield dataclasses.replace(plan, groups=groups, bundles=[], stacks=joined)


class _Side:
    """The rows of one side, each computed when it is asked for."""

    def __init__(self, plan: Plan, side: int, x: PyTree, start: Any) -> None:
        one_hot, rows = one_hot_of(plan, side, start), functools.partial(rows_for, plan, side)
        closed, shapes = jax.make_jaxpr(rows, return_shape=True)(one_hot, x)
        jaxpr = closed.jaxpr
        values = [*closed.consts, one_hot, *jax.tree.leaves(x)]
        self._env = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))
        self._equations: list[Equation] = jaxpr.eqns
        self._maker = {v: i for i, equation in enumerate(jaxpr.eqns) for v in equation.outvars}
        self._cotangents = _descendants(jaxpr.eqns, jaxpr.invars[0])
        whole: Rows = jax.tree.unflatten(jax.tree.structure(shapes), jaxpr.outvars)
        self._bundles = {tuple(b): v for b, v in zip(plan.bundles, whole.jacobians, strict=True)}
        self._stacks = {tuple(s): v for s, v in zip(plan.stacks, whole.factored, strict=True)}
        self._steps: list[tuple[list[int], Rows, list[Var]]] = []

    def depth(self, part: Plan) -> int:
        """How many equations the rows of a part need."""
        return len(self._missing(part, set()))

    def order(self, parts: Sequence[Plan]) -> None:
        """Settles what is computed for each part when they come in this order."""
        done: set[int] = set()
        steps = []
        last: dict[Var, int] = {}  # the last step that uses a cotangent
        for k, part in enumerate(parts):
            equations = sorted(self._missing(part, done))
            done.update(equations)
            steps.append(equations)
            used = [v for i in equations for v in self._equations[i].invars]
            for v in [*used, *jax.tree.leaves(self._rows(part))]:
                if not isinstance(v, Literal) and v in self._cotangents:
                    last[v] = k
        made: list[Var] = []
        for k, (equations, part) in enumerate(zip(steps, parts, strict=True)):
            made = [v for v in [*made, *self._made(equations)] if last.get(v, 0) > k]
            self._steps.append((equations, self._rows(part), made))

    def rows(self, k: int) -> Rows:
        """The rows of the next part."""
        equations, rows, _ = self._steps[k]
        for i in equations:
            equation = self._equations[i]
            outputs = values_of(equation, [self._read(v) for v in equation.invars])
            self._env.update(zip(equation.outvars, outputs, strict=True))
        return jax.tree.map(self._read, rows)

    def waiting(self, k: int) -> list[jax.Array]:
        """The cotangents from which later parts go on."""
        return [self._env[v] for v in self._steps[k][2]]

    def resume(self, k: int, values: Sequence[jax.Array]) -> None:
        """Takes what was waiting back."""
        self._env.update(zip(self._steps[k][2], values, strict=True))

    def _made(self, equations: Sequence[int]) -> list[Var]:
        return [v for i in equations for v in self._equations[i].outvars]

    def _rows(self, part: Plan) -> Rows:
        bundles = [self._bundles[tuple(bundle)] for bundle in part.bundles]
        return Rows(bundles, [self._stacks[tuple(stack)] for stack in part.stacks], None)

    def _missing(self, part: Plan, done: set[int]) -> set[int]:
        """The equations that the rows of a part need, without those that are done."""
        found: set[int] = set()
        new = jax.tree.leaves(self._rows(part))
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
