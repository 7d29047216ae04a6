"""The plan of a kernel: pure arithmetic on static shapes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from ntk_train._jax import shape_of
from ntk_train._types import KernelProblem
from ntk_train.kernel.costs import is_small, is_stacked, num_rows, of_derivatives, of_push, ways
from ntk_train.kernel.machine import Cost, Machine, this_machine
from ntk_train.kernel.memory import blocks_of
from ntk_train.kernel.plan import NumberedGroups, PartPlan, Plan, Sizes, Work, examples_of
from ntk_train.kernel.sides import Sides
from ntk_train.program.linear import LinearProgram
from ntk_train.program.sites import Site


def make_plan(
    problem: KernelProblem,
    groups: NumberedGroups,
    sides: Sides,
    inner: Plan | None = None,
) -> Plan:
    """Plans the leaves of some groups.

    Args:
      problem: what to compute.
      groups: the leaves whose kernels are wanted apart.
      sides: their programs and what is in them.
      inner: the plan of all other leaves.

    Returns:
      The plan.
    """
    machine = this_machine(problem.memory_budget)
    labels = _label_sizes(problem, sides.programs)
    parts = [
        part
        for i in sorted(leaf for leaves in groups.values() for leaf in leaves)
        for part in _plans_of_leaf(problem, machine, labels, i, sides)
    ]
    by_group = _by_group(groups, parts)
    cost = of_derivatives(problem, labels, sides.programs, sides.sites)
    costs = [cost, *(part.cost for part in parts)]
    if inner is not None:
        costs += [inner.cost, of_push(problem, labels, inner)]
    total = Cost(sum(c.operations for c in costs), sum(c.moved for c in costs))
    return Plan(
        problem=problem,
        machine=machine,
        groups=groups,
        programs=sides.programs,
        sites=sides.sites,
        labels=labels,
        parts=parts,
        passes=sides.passes,
        bundles=[bundle for own in by_group for bundle in _bundles(parts, own)],
        stacks=[stack for own in by_group for stack in _stacks(parts, own)],
        blocks=blocks_of(
            Work(problem, machine, labels, parts, sides.passes),
            total.operations,
            is_cut=inner is not None,
        ),
        cost=total,
        inner=inner,
    )


def _plans_of_leaf(
    problem: KernelProblem,
    machine: Machine,
    labels: Mapping[str, int],
    leaf: int,
    sides: Sides,
) -> Iterator[PartPlan]:
    path, programs = problem.paths[leaf], sides.programs
    groups1, groups2 = (parts.get(leaf, ()) for parts in sides.parts)
    labels1, labels2 = ([group[0].theta_labels for group in own] for own in (groups1, groups2))
    if not groups1 or labels1 != labels2:
        unfactored = sides.unfactored.get(leaf, ())
        size = problem.theta[leaf].size
        # A bias of the output, which reaches it in no other way: see `terms`.
        if all(program.tangents[leaf] in program.terms for program in programs):
            cost = Cost(0, 2 * num_rows(labels, problem.layout.out))
            yield PartPlan(path, leaf, ((), ()), "identity", None, cost, 1, False, 1, unfactored)
            return
        cost = Cost(2 * math.prod(labels.values()) * size, 0)
        joined = is_small(problem, machine, labels, size)
        yield PartPlan(path, leaf, ((), ()), "transposed", None, cost, size, joined, 1, unfactored)
        return
    for own1, own2 in zip(groups1, groups2, strict=True):
        t, s = (sum(site.t for site in own) for own in (own1, own2))
        sizes = Sizes(labels, own1[0].r, t, s, own1[0].factors.a, own1[0].factors.b)
        options = ways(problem, machine, sizes)
        if own1[0].factors.one_hot:  # a Jacobian of one-hot rows would be mostly zeros
            del options["jacobian"]
        if _is_output(own1, programs[0]) and _is_output(own2, programs[1]):
            gram = sizes.of("".join(examples_of(problem)) + "a")
            options["identity"] = Cost(2 * gram, 2 * sizes.of(problem.layout.out))
        way = min(options, key=lambda way: options[way].time(machine))
        row = sizes.r * min(sizes.a * sizes.b, sizes.t * sizes.b)
        width = sizes.of("rab" if way == "jacobian" else "rsb")
        if way == "full_gram":
            joined = is_stacked(problem, machine, sizes)
        else:
            joined = way != "identity" and is_small(problem, machine, labels, width)
        pieces = _pieces(problem, machine, sizes, [*own1, *own2]) if way == "jacobian" else 1
        yield PartPlan(path, leaf, (own1, own2), way, sizes, options[way], row, joined, pieces)


def _pieces(problem: KernelProblem, machine: Machine, sizes: Sizes, uses: Sequence[Site]) -> int:
    """In how many pieces to make the patches of a Jacobian.

    As a whole they are written twice and read twice, and take memory; each piece reads the
    cotangents.
    """
    counts = {len(site.factors.pieces) for site in uses}
    if len(counts) > 1 or counts == {0} or machine.batches:
        return 1  # an accelerator is slower at several products
    (pieces,) = counts
    sides = (problem.layout.left, problem.layout.right)
    outputs = max(sizes.of(side[1:] if problem.batched else side) for side in sides)
    reads_less = pieces * outputs * sizes.b <= 4 * sizes.a
    return pieces if reads_less and outputs * sizes.b <= min(sizes.t, sizes.s) else 1


def _is_output(uses: Sequence[Site], program: LinearProgram) -> bool:
    """Whether J[n,o,a,b] is x[n,a] where o is b and 0 elsewhere, as the way `identity` has it.

    That holds under these conditions, each of which has a case in tests/bank/preconditions.py:

    - the weight is used once, at one position, in no scan and with no scale;
    - what it makes there reaches the output once, as a term in the same order (`terms`).
    """
    return (
        len(uses) == uses[0].r == uses[0].t == 1
        and not uses[0].view.scans
        and not uses[0].view.scales
        and uses[0].equation.outvars[0] in program.terms
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


def _by_group(groups: NumberedGroups, parts: Sequence[PartPlan]) -> list[list[int]]:
    """The parts of each group, in their order."""
    group_of = {leaf: group for group, leaves in groups.items() for leaf in leaves}
    own: dict[int, list[int]] = {group: [] for group in groups}
    for i, part in enumerate(parts):
        own[group_of[part.leaf]].append(i)
    return list(own.values())


def _bundles(parts: Sequence[PartPlan], own: Sequence[int]) -> list[list[int]]:
    """Those of some parts whose Jacobians are formed: small ones together, each large alone.

    One product of many narrow Jacobians side by side reads and writes the kernel once.
    """
    formed = [i for i in own if parts[i].way in ("jacobian", "transposed")]
    small = [i for i in formed if parts[i].joined]
    return [[i] for i in formed if not parts[i].joined] + ([small] if small else [])


def _stacks(parts: Sequence[PartPlan], own: Sequence[int]) -> list[list[int]]:
    """Those of some parts whose factors are kept, small ones of equal sizes together."""
    stacks: dict[Any, list[int]] = {}
    for i in own:
        part = parts[i]
        if part.way in ("jacobian", "transposed"):
            continue
        key: Any = i
        if part.way == "full_gram" and part.joined and part.sizes is not None:
            one_hot = part.sites[0][0].factors.one_hot
            key = (one_hot, part.sizes.t, part.sizes.s, part.sizes.a, part.sizes.b)
        stacks.setdefault(key, []).append(i)
    return list(stacks.values())
