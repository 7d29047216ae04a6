"""The plan of a kernel: pure arithmetic on static shapes."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from ntk_train._jax import shape_of
from ntk_train._types import KernelProblem
from ntk_train.kernel.costs import of_derivatives, of_push
from ntk_train.kernel.machine import Cost, this_machine
from ntk_train.kernel.memory import blocks_of
from ntk_train.kernel.plan import FREE, Choices, NumberedGroups, PartPlan, Plan, Product, Work
from ntk_train.kernel.sides import Sides
from ntk_train.kernel.ways import (
    FullGram,
    HalfGram,
    Identity,
    Jacobian,
    Setting,
    Sizes,
    Transposed,
    Way,
)
from ntk_train.program.linear import LinearProgram
from ntk_train.program.sites import Site


def make_plan(
    problem: KernelProblem,
    groups: NumberedGroups,
    sides: Sides,
    choices: Choices = FREE,
    inner: Plan | None = None,
) -> Plan:
    """Plans the leaves of some groups.

    Args:
      problem: what to compute.
      groups: the leaves whose kernels are wanted apart.
      sides: their programs and what is in them.
      choices: what is told.
      inner: the plan of all other leaves.

    Returns:
      The plan.
    """
    machine = choices.machine or this_machine(problem.memory_budget)
    setting = Setting(problem, machine, _label_sizes(problem, sides.programs))
    parts = [
        part
        for i in sorted(leaf for leaves in groups.values() for leaf in leaves)
        for part in _plans_of_leaf(setting, i, sides, choices)
    ]
    cost = of_derivatives(setting, sides.programs, sides.sites)
    costs = [cost, *(part.cost for part in parts)]
    if inner is not None:
        costs += [inner.cost, of_push(setting, inner)]
    total = Cost(sum(c.operations for c in costs), sum(c.traffic for c in costs))
    return Plan(
        setting=setting,
        groups=groups,
        programs=sides.programs,
        sites=sides.sites,
        parts=parts,
        passes=sides.passes,
        products=_products(setting, groups, parts),
        blocks=choices.blocks
        or blocks_of(
            Work(setting, parts, sides.passes),
            total.operations,
            is_cut=inner is not None,
            streamed=choices.streamed,
        ),
        cost=total,
        inner=inner,
    )


def _plans_of_leaf(
    setting: Setting, leaf: int, sides: Sides, choices: Choices
) -> Iterator[PartPlan]:
    problem, programs = setting.problem, sides.programs
    path, labels = problem.paths[leaf], setting.labels
    groups1, groups2 = (parts.get(leaf, ()) for parts in sides.parts)
    labels1, labels2 = ([group[0].theta_labels for group in own] for own in (groups1, groups2))
    if not groups1 or labels1 != labels2:
        way: Way = Transposed(Sizes(labels, b=problem.theta[leaf].size))
        # A bias of the output, which reaches it in no other way: see `output_terms`.
        if all(program.tangents[leaf] in program.output_terms for program in programs):
            way = Identity(Sizes(labels))
        unfactored = sides.unfactored.get(leaf, ())
        yield PartPlan(path, leaf, ((), ()), way, way.cost(setting), unfactored)
        return
    for own in zip(groups1, groups2, strict=True):
        options = [(way, way.cost(setting)) for way in ways(setting, own, programs, choices)]
        way, cost = min(options, key=lambda option: option[1].time(setting.machine))
        yield PartPlan(path, leaf, own, way, cost)


def ways(
    setting: Setting,
    uses: tuple[Sequence[Site], Sequence[Site]],
    programs: tuple[LinearProgram, LinearProgram],
    choices: Choices,
) -> list[Way]:
    """The ways in which a weight could be contracted that meets data at these sites."""
    first, second = uses
    factors = first[0].factors
    t, s = (sum(site.t for site in own) for own in uses)
    sizes = Sizes(setting.labels, first[0].r, t, s, factors.a, factors.b)
    found: list[Way] = [HalfGram(sizes), FullGram(sizes, factors.one_hot)]
    if not factors.one_hot:  # a Jacobian of one-hot rows would be mostly zeros
        pieces = _pieces(setting, sizes, [*first, *second], choices.pieces)
        found.insert(0, Jacobian(sizes, pieces))
    if all(_is_output(*side) for side in zip(uses, programs, strict=True)):
        found.append(Identity(sizes))
    return [way for way in found if choices.ways is None or way.name in choices.ways]


def _pieces(setting: Setting, sizes: Sizes, uses: Sequence[Site], told: bool | None) -> int:
    """In how many pieces to make the patches of a Jacobian.

    As a whole they are written twice and read twice, and take memory; each piece reads the
    cotangents.
    """
    problem = setting.problem
    counts = {len(site.factors.pieces) for site in uses}
    if len(counts) > 1 or counts == {0} or told is False:
        return 1
    (pieces,) = counts
    if told:
        return pieces
    if setting.machine.is_accelerator:
        return 1  # it is slower at several products
    sides = (problem.layout.left, problem.layout.right)
    outputs = max(sizes.of(side[1:] if problem.batched else side) for side in sides)
    reads_less = pieces * outputs * sizes.b <= 4 * sizes.a
    return pieces if reads_less and outputs * sizes.b <= min(sizes.t, sizes.s) else 1


def _is_output(uses: Sequence[Site], program: LinearProgram) -> bool:
    """Whether J[n,o,a,b] is x[n,a] where o is b and 0 elsewhere, as the way `identity` has it.

    That holds under these conditions, each of which has a case in tests/bank/preconditions.py:

    - the weight is used once, at one position, in no scan and with no scale;
    - what it makes there reaches the output once, as a term in the same order (`output_terms`);
    - that order is the one of b, and each b makes one number.
    """
    return (
        len(uses) == uses[0].r == uses[0].t == 1
        and not uses[0].view.scans
        and not uses[0].view.scales
        and uses[0].equation.outvars[0] in program.output_terms
        and not uses[0].factors.reorders
        and shape_of(uses[0].equation.outvars[0]).size == uses[0].factors.b
    )


def _label_sizes(
    problem: KernelProblem, programs: tuple[LinearProgram, LinearProgram]
) -> dict[str, int]:
    layout = problem.layout
    x2 = problem.x1 if problem.x2 is None else problem.x2
    labels: dict[str, int] = {}
    for side, x, program in zip(
        (layout.left, layout.right), (problem.x1, x2), programs, strict=True
    ):
        sizes = list(shape_of(program.out).shape)
        if problem.batched:
            sizes.insert(0, jax.tree.leaves(x)[0].shape[0])
        if len(sizes) != len(side):  # a separator, whose entries have one label
            sizes = [sizes[0], math.prod(sizes[1:])]
        labels |= zip(side, sizes, strict=True)
    return labels


def _products(setting: Setting, groups: NumberedGroups, parts: Sequence[PartPlan]) -> list[Product]:
    """The parts of each group that are contracted as one, by what their ways say."""
    group_of = {leaf: group for group, leaves in groups.items() for leaf in leaves}
    products: dict[Any, list[int]] = {}
    for i, part in enumerate(parts):
        key = part.way.product(setting)
        products.setdefault((group_of[part.leaf], i if key is None else key), []).append(i)
    return [
        Product(group, members, parts[members[0]].way) for (group, _), members in products.items()
    ]
