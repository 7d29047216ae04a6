"""How much is computed at once, so that it fits in memory, and what is in use in a cache.

The rows of the factored Jacobian are kept where they fit. Where they do not, a trace is summed a
few outputs at a time, which costs nothing; of a full kernel a few leaves have their rows at a time
(`in_passes`), and the derivatives are computed anew for each pass.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from ntk_train._types import KernelProblem
from ntk_train.kernel.costs import num_rows
from ntk_train.kernel.machine import BETWEEN, ROWS, Machine
from ntk_train.kernel.plan import Blocks, NumberedGroups, PartPlan, Plan, examples_of


def blocks_of(
    problem: KernelProblem,
    machine: Machine,
    labels: Mapping[str, int],
    parts: Sequence[PartPlan],
    operations: int,
) -> Blocks:
    """Decides how much is computed at once.

    Args:
      problem: what to compute.
      machine: its caches and memory.
      labels: sizes of the labels of the layout.
      parts: what is done with each leaf.
      operations: of the whole, derivatives included.
    """
    layout = problem.layout
    sides = (layout.left, layout.right)
    traced = _traced(problem, machine, labels, parts)
    if traced is not None:
        labels = {**labels, traced[0]: traced[1]}
    rows = max(num_rows(labels, side) for side in sides)
    n = max(labels[side[0]] for side in sides) if problem.batched else 1
    outputs = max(num_rows(labels, side[1:] if problem.batched else side) for side in sides)
    number = bytes_of(problem)
    formed = [part.sizes for part in parts if part.way == "jacobian" and part.sizes is not None]
    patches, cotangents = (number * sum(sizes.of(v) for sizes in formed) for v in ("rta", "rtb"))
    example = patches + outputs * cotangents
    examples = n
    kept = rows * number * sum(kept_numbers(part) for part in parts)
    if example * n > max(machine.block, kept):  # or the loop would take more than it saves
        examples = _even(n, machine.block / example)
    if example > BETWEEN * machine.memory:
        outputs = _even(outputs, BETWEEN * machine.memory / (example / outputs))
    n_, m_ = examples_of(problem)
    blocked = n_ != m_ and {n_, m_} <= set(layout.out) and all(labels.values())
    tile = _tile(problem, machine, labels, parts) if blocked else None
    pairs = sum(part.cost.operations for part in parts if part.way == "half_gram")
    columns = 1
    if blocked and tile is None and pairs > operations / 8:  # or it takes more than it saves
        m = labels[m_]
        columns = m if m <= machine.columns else min(machine.columns, 2)
    return Blocks(examples, outputs, tile, columns, traced)


def _traced(
    problem: KernelProblem,
    machine: Machine,
    labels: Mapping[str, int],
    parts: Sequence[PartPlan],
) -> tuple[str, int] | None:
    """Of which outputs of a trace or diagonal the rows fit in memory; None for all."""
    shared = [label for label in problem.layout.shared if label not in examples_of(problem)]
    kept = sum(_kept(problem, labels, part) for part in parts)
    if not shared or kept <= ROWS * machine.memory:
        return None
    label = max(shared, key=lambda label: labels[label])
    return label, _even(labels[label], labels[label] * ROWS * machine.memory / kept)


def _tile(
    problem: KernelProblem,
    machine: Machine,
    labels: Mapping[str, int],
    parts: Sequence[PartPlan],
) -> int | None:
    """How many examples a block of the kernel has on either side; None for all."""
    layout = problem.layout
    n = max(labels[side[0]] for side in (layout.left, layout.right))
    rows = max(num_rows(labels, side) for side in (layout.left, layout.right))
    tile = float(n)
    if rows >= 4 * machine.tile:
        tile = machine.tile // (rows // n)
    # Z has the examples of both sides.
    pairs = [
        part.sizes.of(layout.left + layout.right[0] + "rsb")
        for part in parts
        if part.way == "half_gram" and part.sizes is not None
    ]
    between = bytes_of(problem) * max(pairs, default=0)
    if between > BETWEEN * machine.memory:
        tile = min(tile, n * math.sqrt(BETWEEN * machine.memory / between))
    return max(1, int(tile)) if tile < n else None


def in_passes(make: Callable[[NumberedGroups], Plan], groups: NumberedGroups) -> Plan:
    """The plan of all leaves, or where their rows do not fit in memory of some after the others.

    Args:
      make: makes the plan of some leaves.
      groups: all leaves.
    """
    whole = make(groups)
    passes = _leaves_of_passes(whole)
    if len(passes) == 1:
        return whole
    chain = None
    for leaves in reversed(passes):
        own = {group: [leaf for leaf in every if leaf in leaves] for group, every in groups.items()}
        plan = make({group: leaves for group, leaves in own.items() if leaves})
        chain = dataclasses.replace(plan, rest=chain)
    assert chain is not None
    return chain


def _leaves_of_passes(plan: Plan) -> list[list[int]]:
    kept: dict[int, int] = {}
    for level in plan.levels:
        for part in level.parts:
            bytes_ = _kept(level.problem, level.labels, part)
            kept[part.leaf] = kept.get(part.leaf, 0) + bytes_
    least = sum(kept.values()) / (ROWS * plan.machine.memory)
    if least <= 1 or plan.blocks.traced is not None:
        return [list(kept)]
    passes: list[list[int]] = [[]]
    share, so_far = sum(kept.values()) / math.ceil(least), 0
    for leaf, size in kept.items():
        if passes[-1] and so_far + size / 2 > share * len(passes):
            passes.append([])
        passes[-1].append(leaf)
        so_far += size
    return passes


def kept_numbers(part: PartPlan) -> int:
    """Numbers that are held for one row of a part's Jacobian."""
    if part.sizes is None or part.way == "identity":
        return part.row_numbers
    return part.sizes.of("rab" if part.way == "jacobian" else "rtb")


def bytes_of(problem: KernelProblem) -> int:
    """Of one number of the Jacobian."""
    return max(leaf.dtype.itemsize for leaf in problem.theta)


def _kept(problem: KernelProblem, labels: Mapping[str, int], part: PartPlan) -> int:
    """Bytes that are held for the rows of a part, of both sides where they differ."""
    sides = [problem.layout.left] + ([] if problem.x2 is None else [problem.layout.right])
    rows = sum(num_rows(labels, side) for side in sides)
    return bytes_of(problem) * rows * kept_numbers(part)


def _even(n: int, most: float) -> int:
    """Into blocks of which size to cut n: at most so large, of equal sizes where that is near."""
    size = min(max(1, int(most)), n)
    divisor = next(divisor for divisor in range(size, 0, -1) if n % divisor == 0)
    return divisor if 2 * divisor > size else size
