"""Structured derivatives: the kernel from factored Jacobians, which are hardly ever formed.

    Theta[n,o,m,p] = sum_leaf sum_{t,s,a,b}  g1[n,o,t,b] x1[n,t,a]  g2[m,p,s,b] x2[m,s,a]

One backward pass for each output gives the cotangents g of every layer's output at once; with the
layer's inputs x they are the Jacobian of its weight in factored form. (R. Novak, J. Sohl-Dickstein,
S. S. Schoenholz, *Fast Finite Width Neural Tangent Kernel*, ICML 2022, section 3.3.)
"""

import dataclasses
import string
from collections.abc import Callable
from typing import NamedTuple

import jax

from ntk_train._jax import shape_of
from ntk_train._types import Groups, KernelLayout, KernelProblem, PyTree
from ntk_train.kernel.blocks import kernels_of
from ntk_train.kernel.memory import bytes_needed
from ntk_train.kernel.plan import FREE, Choices, NumberedGroups, Plan, Tiles
from ntk_train.kernel.planning import make_plan
from ntk_train.kernel.sides import Sides
from ntk_train.program.linear import linear_program
from ntk_train.program.separator import Halves, cut_at, separators


def prepare(problem: KernelProblem, groups: Groups, choices: Choices = FREE) -> Plan:
    """Traces both sides, and plans the kernel, cut at a bottleneck where that takes less time."""
    sides = _trace_both(problem, choices.many)
    numbered, cuts = dict(enumerate(groups)), _cuts(problem, sides)

    def plan_of(problem: KernelProblem) -> Plan:
        plans = [make_plan(problem, numbered, sides, choices)]
        plans += [_cut_plan(problem, numbered, cut, choices) for cut in cuts]
        return min(plans, key=lambda plan: plan.cost.time(plan.machine))

    plan = plan_of(problem)
    return dataclasses.replace(plan, tiles=_tiles(plan, plan_of, choices.examples))


def _tiles(
    plan: Plan, plan_of: Callable[[KernelProblem], Plan], examples: float | int | None
) -> Tiles | None:
    """Half as many examples at a time, again and again, until their rows fit in memory."""
    problem = plan.problem
    n, m = problem.example_labels
    if n == m or not {n, m} <= set(problem.layout.out) or not all(plan.labels.values()):
        return None
    most = size = max(plan.labels[n], plan.labels[m])
    other = plan

    def fits(other: Plan) -> bool:
        if examples is not None:
            return other.labels[n] <= examples
        return bytes_needed(other) <= plan.machine.memory

    while not fits(other) and size > 1:
        blocks = 2 * -(-most // size)
        size = -(-most // blocks)
        x1 = _examples(problem.x1, size)
        x2 = x1 if problem.x2 is None else _examples(problem.x2, size)
        other = plan_of(dataclasses.replace(problem, x1=x1, x2=x2))
    if other is plan:
        return None
    own = None
    if problem.x2 is None:
        own = plan_of(dataclasses.replace(problem, x1=_examples(problem.x1, size)))
    return Tiles(size, own, other)


def _examples(x: PyTree, size: int) -> PyTree:
    """Shapes of so many examples, or of all where there are fewer."""
    return jax.eval_shape(lambda x: jax.tree.map(lambda leaf: leaf[:size], x), x)


def structured(plan: Plan) -> list[jax.Array]:
    """The kernel of each group of leaves, in the axes of the layout and at least float32."""
    return kernels_of(plan, plan.problem.x1, plan.problem.x2)


def _trace_both(problem: KernelProblem, many: int | None = None) -> Sides:
    """The linear programs of both sides, of one example where they are independent."""
    x2 = problem.x1 if problem.x2 is None else problem.x2
    shapes1, shapes2 = (traced_shapes(problem, x) for x in (problem.x1, x2))
    first = second = linear_program(problem.f1, problem.theta, shapes1, many)
    if problem.f2 is not problem.f1 or shapes1 != shapes2:
        second = linear_program(problem.f2, problem.theta, shapes2, many)
    return Sides((first, second))


def traced_shapes(problem: KernelProblem, x: PyTree) -> PyTree:
    """Shapes of the inputs of one side, of one example where they are independent."""
    shapes = jax.eval_shape(lambda x: x, x)
    if problem.batched:
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), shapes)
    return shapes


class _Cut(NamedTuple):
    """Both sides cut at one variable h.

    Attributes:
      leaves: the parameters before h.
      inner: the programs from these to h.
      outer: the programs from h and the other parameters to the outputs.
    """

    leaves: frozenset[int]
    inner: Sides
    outer: Sides


def _cuts(problem: KernelProblem, sides: Sides) -> list[_Cut]:
    """Where the kernel of a variable h may be pushed through J_h = df/dh.

        Theta = J_h Theta_h J_h^T + (the part of the leaves that enter after h)

    Only for full kernels of independent examples: the others need no more than one row for each
    example and output, and Theta_h has them all.
    """
    if not problem.batched or problem.layout.shared:
        return []
    first, second = sides.programs
    cuts = []
    for halves1 in separators(first):
        halves2: Halves | None = halves1
        if second is not first:
            halves2 = cut_at(second, halves1.equation)
        if halves2 is None or halves2.leaves != halves1.leaves or _size(halves1) != _size(halves2):
            continue
        inner, outer = (halves1.inner, halves2.inner), (halves1.outer, halves2.outer)
        cuts.append(_Cut(halves1.leaves, Sides(inner), Sides(outer)))
    return cuts


def _cut_plan(problem: KernelProblem, groups: NumberedGroups, cut: _Cut, choices: Choices) -> Plan:
    """The plan of a kernel that is pushed through."""
    layout = problem.layout
    n, m = layout.left[0], layout.right[0]
    used = layout.left + layout.right
    h, i = [letter for letter in string.ascii_uppercase if letter not in used][:2]
    inner_problem = dataclasses.replace(problem, layout=KernelLayout(n + h, m + i, n + h + m + i))
    inside, outside = (
        {
            group: [leaf for leaf in leaves if (leaf in cut.leaves) == yes]
            for group, leaves in groups.items()
        }
        for yes in (True, False)
    )
    inner = make_plan(inner_problem, inside, cut.inner, choices)
    return make_plan(problem, outside, cut.outer, choices, inner)


def _size(halves: Halves) -> int:
    return shape_of(halves.inner.out).size
