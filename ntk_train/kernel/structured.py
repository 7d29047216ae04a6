"""Structured derivatives: the kernel from factored Jacobians, which are hardly ever formed.

    Theta[n,o,m,p] = sum_leaf sum_{t,s,a,b}  g1[n,o,t,b] x1[n,t,a]  g2[m,p,s,b] x2[m,s,a]

One backward pass for each output gives the cotangents g of every layer's output at once; with the
layer's inputs x they are the Jacobian of its weight in factored form. (R. Novak, J. Sohl-Dickstein,
S. S. Schoenholz, *Fast Finite Width Neural Tangent Kernel*, ICML 2022, section 3.3.)
"""

import dataclasses
import functools
import string
from collections.abc import Callable, Iterator, Sequence

import jax
from jax import lax

from ntk_train._jax import shape_of
from ntk_train._types import ApplyFn, Groups, KernelLayout, KernelProblem, PyTree
from ntk_train.kernel.blocks import kernels_of
from ntk_train.kernel.memory import in_passes
from ntk_train.kernel.plan import NumberedGroups, Plan
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

    def whole(groups: NumberedGroups) -> Plan:
        return make_plan(problem, groups, programs, sites)

    numbered = dict(enumerate(groups))
    plans = [in_passes(make, numbered) for make in (whole, *_cuts(problem, programs))]
    return min(plans, key=lambda plan: plan.total_cost.time(plan.machine))


def structured(plan: Plan) -> list[jax.Array]:
    """The kernel of each group of leaves, in the axes of the layout and at least float32."""
    inputs = plan.problem.x1, plan.problem.x2
    kernels: dict[int, jax.Array] = {}
    for one in plan.passes:
        for group, part in zip(one.groups, kernels_of(one, *inputs), strict=True):
            kernels[group] = kernels[group] + part if group in kernels else part
        if one.rest is not None:  # or a compiler could keep the rows of one pass for the next
            inputs, kernels = lax.optimization_barrier((inputs, kernels))
    return [kernels[group] for group in sorted(kernels)]


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


def _cuts(
    problem: KernelProblem, programs: tuple[LinearProgram, LinearProgram]
) -> Iterator[Callable[[NumberedGroups], Plan]]:
    """Makers of plans that push the kernel of a variable h through J_h = df/dh.

        Theta = J_h Theta_h J_h^T + (the part of the leaves that enter after h)

    Only for full kernels of independent examples: the others need no more than one row for each
    example and output, and Theta_h has them all.
    """
    layout = problem.layout
    if not problem.batched or layout.shared:
        return
    n, m = layout.left[0], layout.right[0]
    h, i = [letter for letter in string.ascii_uppercase if letter not in n + m][:2]
    inner_problem = dataclasses.replace(problem, layout=KernelLayout(n + h, m + i, n + h + m + i))
    for halves1 in separators(programs[0]):
        halves2: Halves | None = halves1
        if programs[1] is not programs[0]:
            halves2 = cut_at(programs[1], halves1.equation)
        if halves2 is None or halves2.leaves != halves1.leaves or _size(halves1) != _size(halves2):
            continue
        yield functools.partial(_plan_of_cut, problem, inner_problem, halves1, halves2)


def _plan_of_cut(
    problem: KernelProblem,
    inner_problem: KernelProblem,
    halves1: Halves,
    halves2: Halves,
    groups: NumberedGroups,
) -> Plan:
    inside, outside = (
        {
            group: [leaf for leaf in leaves if (leaf in halves1.leaves) == yes]
            for group, leaves in groups.items()
        }
        for yes in (True, False)
    )
    inner, outer = (halves1.inner, halves2.inner), (halves1.outer, halves2.outer)
    plan = make_plan(inner_problem, inside, inner, _sites(inner))
    return make_plan(problem, outside, outer, _sites(outer), plan)


def _size(halves: Halves) -> int:
    return shape_of(halves.inner.out).size
