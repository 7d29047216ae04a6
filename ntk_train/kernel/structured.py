"""Structured derivatives: the kernel from factored Jacobians, which are hardly ever formed.

    Theta[n,o,m,p] = sum_leaf sum_{t,s,a,b}  g1[n,o,t,b] x1[n,t,a]  g2[m,p,s,b] x2[m,s,a]

One backward pass for each output gives the cotangents g of every layer's output at once; with the
layer's inputs x they are the Jacobian of its weight in factored form. (R. Novak, J. Sohl-Dickstein,
S. S. Schoenholz, *Fast Finite Width Neural Tangent Kernel*, ICML 2022, section 3.3.)
"""

import dataclasses
import string
from collections.abc import Callable, Iterator, Sequence

import jax

from ntk_train._jax import shape_of
from ntk_train._types import ApplyFn, Groups, KernelLayout, KernelProblem, PyTree
from ntk_train.kernel.blocks import kernels_of
from ntk_train.kernel.memory import bytes_needed
from ntk_train.kernel.plan import NumberedGroups, Plan, Tiles, examples_of
from ntk_train.kernel.planning import make_plan
from ntk_train.program.linear import LinearProgram, linear_program
from ntk_train.program.separator import Halves, cut_at, separators
from ntk_train.program.sites import Site, find_sites
from ntk_train.rules import factors_of


def prepare(problem: KernelProblem, groups: Groups) -> Plan:
    """Traces both sides, and plans the kernel, cut at a bottleneck where that takes less time."""
    program1 = program2 = _trace(problem, problem.f1, problem.x1)
    if problem.x2 is not None:
        program2 = _trace(problem, problem.f2, problem.x2)
    programs = program1, program2
    sites = _sites(programs)
    numbered = dict(enumerate(groups))

    def plan_of(problem: KernelProblem) -> Plan:
        whole = make_plan(problem, numbered, programs, sites)
        plans = [whole, *_cut_plans(problem, numbered, programs)]
        return min(plans, key=lambda plan: plan.cost.time(plan.machine))

    plan = plan_of(problem)
    return dataclasses.replace(plan, tiles=_tiles(plan, plan_of))


def _tiles(plan: Plan, plan_of: Callable[[KernelProblem], Plan]) -> Tiles | None:
    """Half as many examples at a time, again and again, until their rows fit in memory."""
    problem, tiles = plan.problem, None
    n, m = examples_of(problem)
    if n == m or not {n, m} <= set(problem.layout.out) or not all(plan.labels.values()):
        return None
    most = size = max(plan.labels[n], plan.labels[m])
    needed = bytes_needed(plan)
    while needed > plan.machine.memory and size > 1:
        blocks = 2 * -(-most // size)
        size = -(-most // blocks)
        x1 = _examples(problem.x1, size)
        x2 = x1 if problem.x2 is None else _examples(problem.x2, size)
        other = plan_of(dataclasses.replace(problem, x1=x1, x2=x2))
        own = None
        if problem.x2 is None:
            own = plan_of(dataclasses.replace(problem, x1=x1))
        tiles = Tiles(size, own, other)
        needed = bytes_needed(other)
    return tiles


def _examples(x: PyTree, size: int) -> PyTree:
    """Shapes of so many examples, or of all where there are fewer."""
    return jax.eval_shape(lambda x: jax.tree.map(lambda leaf: leaf[:size], x), x)


def structured(plan: Plan) -> list[jax.Array]:
    """The kernel of each group of leaves, in the axes of the layout and at least float32."""
    return kernels_of(plan, plan.problem.x1, plan.problem.x2)


def _trace(problem: KernelProblem, f: ApplyFn, x: PyTree) -> LinearProgram:
    """The linear program of one side, of one example of it where they are independent."""
    shapes = jax.eval_shape(lambda x: x, x)
    if problem.batched:
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), shapes)
    return linear_program(f, problem.theta, shapes)


def _sites(
    programs: tuple[LinearProgram, LinearProgram],
) -> tuple[Sequence[Site], Sequence[Site]]:
    first = find_sites(programs[0], factors_of)
    return first, first if programs[1] is programs[0] else find_sites(programs[1], factors_of)


def _cut_plans(
    problem: KernelProblem, groups: NumberedGroups, programs: tuple[LinearProgram, LinearProgram]
) -> Iterator[Plan]:
    """Plans that push the kernel of a variable h through J_h = df/dh.

        Theta = J_h Theta_h J_h^T + (the part of the leaves that enter after h)

    Only for full kernels of independent examples: the others need no more than one row for each
    example and output, and Theta_h has them all.
    """
    layout = problem.layout
    if not problem.batched or layout.shared:
        return
    n, m = layout.left[0], layout.right[0]
    used = layout.left + layout.right
    h, i = [letter for letter in string.ascii_uppercase if letter not in used][:2]
    inner_problem = dataclasses.replace(problem, layout=KernelLayout(n + h, m + i, n + h + m + i))
    for halves1 in separators(programs[0]):
        halves2: Halves | None = halves1
        if programs[1] is not programs[0]:
            halves2 = cut_at(programs[1], halves1.equation)
        if halves2 is None or halves2.leaves != halves1.leaves or _size(halves1) != _size(halves2):
            continue
        inside, outside = (
            {
                group: [leaf for leaf in leaves if (leaf in halves1.leaves) == yes]
                for group, leaves in groups.items()
            }
            for yes in (True, False)
        )
        inner, outer = (halves1.inner, halves2.inner), (halves1.outer, halves2.outer)
        plan = make_plan(inner_problem, inside, inner, _sites(inner))
        yield make_plan(problem, outside, outer, _sites(outer), plan)


def _size(halves: Halves) -> int:
    return shape_of(halves.inner.out).size
