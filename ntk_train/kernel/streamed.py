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
    parts = list(_parts(plan))
    # A Jacobian that is multiplied together with others comes in its own time: what it is made of
    # would wait with it.
    steps = sorted(
        ((k, member) for k, part in enumerate(parts) for member in _members(part)),
        key=lambda step: sides[0].depth(step[1]),
    )
    for side in sides:
        side.order([member for _, member in steps])
    missing = [len(_members(part)) for part in parts]
    kernels: dict[int, jax.Array] = {}
    for i, (k, _) in enumerate(steps):
        for side in sides:
            side.advance(i)
        missing[k] -= 1
        if missing[k] > 0:
            continue
        rows = [side.rows(parts[k]) for side in sides]
        (group,), (new,) = parts[k].groups, contracted(parts[k], rows[0], rows[-1])
        kernels[group] = kernels[group] + new if group in kernels else new
        for side in sides:
            side.wait(i, new)
    return [kernels[group] for group in plan.groups]


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


def _members(part: Plan) -> list[tuple[str, int, int]]:
    """The Jacobians and factors of a part, each by its kind, its bundle or stack, and its place."""
    jacobians = [("jacobian", bundle[0], i) for bundle in part.bundles for i in range(len(bundle))]
    return jacobians + [("factored", stack[0], 0) for stack in part.stacks]


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
        self._cotangents = _descendants(jaxpr.eqns, jaxpr.invars[0])
        whole: Rows = jax.tree.unflatten(jax.tree.structure(shapes), jaxpr.outvars)
        jacobians = zip(plan.bundles, whole.jacobians, strict=True)
        factored = zip(plan.stacks, whole.factored, strict=True)
        self._rows: dict[tuple[str, int, int], Any] = {
            ("jacobian", bundle[0], i): v for bundle, own in jacobians for i, v in enumerate(own)
        } | {("factored", stack[0], 0): v for stack, v in factored}
        self._steps: list[list[int]] = []
        self._waiting: list[list[Var]] = []

    def depth(self, member: tuple[str, int, int]) -> int:
        """How many equations a member's rows need."""
        return len(self._missing(member, set()))

    def order(self, members: Sequence[tuple[str, int, int]]) -> None:
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

    def rows(self, part: Plan) -> Rows:
        """The rows of a part whose members are there."""
        members: dict[str, list[Any]] = {"jacobian": [], "factored": []}
        for member in _members(part):
            members[member[0]].append(jax.tree.map(self._read, self._rows[member]))
        sizes = [len(bundle) for bundle in part.bundles]
        assert len(sizes) <= 1
        return Rows([members["jacobian"]] if sizes else [], members["factored"], None)

    def wait(self, k: int, kernel: jax.Array) -> None:
        """Makes the cotangents of later steps depend on a part of the kernel.

        Or a compiler could compute all of them first.
        """
        for v in self._waiting[k]:
            self._env[v] = after(self._env[v], kernel)

    def _missing(self, member: tuple[str, int, int], done: set[int]) -> set[int]:
        """The equations that a member needs, without those that are done."""
        found: set[int] = set()
        new = jax.tree.leaves(self._rows[member])
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
