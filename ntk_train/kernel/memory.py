"""How much is computed at once, so that it fits in memory, and what is in use in a cache.

The rows of the factored Jacobian come in one of two ways. Examples go one block after the other,
what is between their patches and their rows staying in a cache, and all rows are kept; or layers
do, all examples at once, and the rows of one layer are there at a time (`streamed`). Where neither
fits, the kernel is made of kernels of fewer examples (`Tiles`).
"""

import math
from collections.abc import Mapping, Sequence

from ntk_train._types import KernelProblem
from ntk_train.kernel.costs import num_rows
from ntk_train.kernel.machine import BETWEEN, ROWS, Machine
from ntk_train.kernel.plan import Blocks, PartPlan, Plan, examples_of

_CACHE = 4  # blocks in a cache
_COLUMNS = 4  # more of them take long to compile
_MANY_ROWS = 256  # from which an accelerator is busy with a part of a product


def blocks_of(
    problem: KernelProblem,
    machine: Machine,
    labels: Mapping[str, int],
    parts: Sequence[PartPlan],
    operations: int,
    *,
    is_cut: bool,
) -> Blocks:
    """Decides how much is computed at once.

    Args:
      problem: what to compute.
      machine: its caches and memory.
      labels: sizes of the labels of the layout.
      parts: what is done with each leaf.
      operations: of the whole, derivatives included.
      is_cut: whether the kernel of a bottleneck is pushed through to this one.
    """
    layout = problem.layout
    streamed = is_streamed(problem, machine, labels, parts)
    traced = _traced(problem, machine, labels, parts, streamed)
    if traced is not None:
        labels = {**labels, traced[0]: traced[1]}
    n_, m_ = examples_of(problem)
    blocked = n_ != m_ and {n_, m_} <= set(layout.out) and all(labels.values())
    tile = _tile(problem, machine, labels, parts, is_cut) if blocked else None
    columns = 1
    if blocked and tile is None:
        columns = _columns(problem, machine, labels, parts, operations, streamed)
    examples, outputs = _rows_at_once(problem, machine, labels, parts, streamed)
    return Blocks(examples, outputs, tile, columns, traced, streamed)


def bytes_needed(plan: Plan) -> int:
    """About how many bytes the kernel takes beside its arguments and itself."""
    problem, blocks = plan.problem, plan.blocks
    labels = dict(plan.labels)
    labels.update([blocks.traced] if blocks.traced else [])
    number, sides = bytes_of(problem), 1 if problem.x2 is None else 2
    kept = [_kept(problem, labels, part) for part in plan.parts]
    if blocks.streamed:
        derivatives = sides * _derivatives(plan.parts, blocks.outputs, layer_by_layer=True)
    else:
        derivatives = _derivatives(plan.parts, blocks.outputs)
        n, m = examples_of(problem)
        if problem.batched and blocks.examples < max(labels[n], labels[m]):  # a loop
            kept = [sum(kept)]
    # Without a loop, the rows of one layer after the other.
    needed = number * blocks.examples * derivatives + max(kept, default=0)
    grams = [
        part.sizes for part in plan.parts if part.sizes is not None and part.way == "full_gram"
    ]
    if blocks.tile is None and grams:  # until they are added up
        needed += number * len(grams) * num_rows(labels, problem.layout.out)
        needed += number * max(size.of(problem.layout.out + "rts") for size in grams)
    if plan.inner is None:
        return needed
    between = number * num_rows({**labels, **plan.inner.labels}, plan.inner.problem.layout.out)
    return between + max(needed, bytes_needed(plan.inner))


def _derivatives(parts: Sequence[PartPlan], outputs: int, *, layer_by_layer: bool = False) -> int:
    """Numbers that are there while the derivatives of an example are taken.

    They are patches of one layer, what is before and after each nonlinearity, and the cotangents,
    those of one layer after the other or all at once.
    """
    sizes = [part.sizes for part in parts if part.sizes is not None]
    cotangents = [size.of("rtb") for size in sizes]
    patches = max((size.of("rta") for size in sizes), default=0)
    at_once = 2 * max(cotangents, default=0) if layer_by_layer else sum(cotangents)
    return patches + 2 * sum(cotangents) + outputs * at_once


def is_streamed(
    problem: KernelProblem,
    machine: Machine,
    labels: Mapping[str, int],
    parts: Sequence[PartPlan],
) -> bool:
    """Whether layers go one after the other: where caches are small, or it takes less memory."""
    kept = sum(_kept(problem, labels, part) for part in parts)
    n = labels[problem.layout.left[0]] if problem.batched else 1
    activations = [part.sizes.of("rtb") for part in parts if part.sizes is not None]
    forward = 2 * bytes_of(problem) * n * sum(activations)
    room = 2 * BETWEEN * machine.memory
    if machine.batches:  # a CPU is as fast at one example at a time
        room = machine.memory / (2 if problem.x2 is None else 4)
    if forward > room:
        return False
    if machine.batches or kept > ROWS * machine.memory:
        return True
    return _layers_take_less(problem, machine, labels, parts)


def _layers_take_less(
    problem: KernelProblem,
    machine: Machine,
    labels: Mapping[str, int],
    parts: Sequence[PartPlan],
) -> bool:
    """Whether one layer at a time takes less memory than blocks of examples, all in a cache."""
    factored = [part for part in parts if part.sizes is not None and part.way != "identity"]
    if not factored or any(part.way != "jacobian" for part in factored):
        return False  # of the factors themselves a compiler keeps one layer at a time anyhow
    number, examples = bytes_of(problem), labels[problem.layout.left[0]] if problem.batched else 1
    block, outputs = _rows_at_once(problem, machine, labels, parts, streamed=False)
    formed = [(part.sizes, part.pieces) for part in factored if part.sizes is not None]
    # Patches are there twice: each tap's, and side by side.
    patches = 2 * number * max(sizes.of("rta") / pieces for sizes, pieces in formed)
    cotangents = [number * sizes.of("rtb") for sizes, _ in formed]
    kept = [_kept(problem, labels, part) for part in factored]
    of_blocks = block * (patches + (1 + outputs) * sum(cotangents)) + sum(kept)
    layer = patches + sum(cotangents) + 2 * outputs * max(cotangents)
    return examples * layer + max(kept) < of_blocks


def _rows_at_once(
    problem: KernelProblem,
    machine: Machine,
    labels: Mapping[str, int],
    parts: Sequence[PartPlan],
    streamed: bool,
) -> tuple[int, int]:
    """Of how many examples and outputs the derivatives are computed at once."""
    sides = (problem.layout.left, problem.layout.right)
    rows = max(num_rows(labels, side) for side in sides)
    n = max(labels[side[0]] for side in sides) if problem.batched else 1
    outputs = max(num_rows(labels, side[1:] if problem.batched else side) for side in sides)
    if streamed:
        return n, outputs
    examples, number = n, bytes_of(problem)
    if machine.batches:  # as many as there is room for
        room = machine.memory - sum(_kept(problem, labels, part) for part in parts)
        example = number * _derivatives(parts, outputs)
        examples = _even(n, max(room, BETWEEN * machine.memory) / max(example, 1))
    else:  # as many as stay in a cache
        formed = [part.sizes for part in parts if part.way == "jacobian" and part.sizes is not None]
        patches, cotangents = (
            number * sum(sizes.of(v) for sizes in formed) for v in ("rta", "rtb")
        )
        example = patches + outputs * cotangents
        kept = rows * number * sum(kept_numbers(part) for part in parts)
        if example * n > max(machine.block, kept / 2):  # or the loop would take more than it saves
            examples = _even(n, machine.block / example)
    if example > BETWEEN * machine.memory:
        outputs = _even(outputs, BETWEEN * machine.memory / (example / outputs))
    return examples, outputs


def _traced(
    problem: KernelProblem,
    machine: Machine,
    labels: Mapping[str, int],
    parts: Sequence[PartPlan],
    streamed: bool,
) -> tuple[str, int] | None:
    """Of which outputs of a trace or diagonal the rows fit in memory; None for all."""
    shared = [label for label in problem.layout.shared if label not in examples_of(problem)]
    each = [_kept(problem, labels, part) for part in parts]
    kept = max(each, default=0) if streamed else sum(each)
    if not shared or kept <= ROWS * machine.memory:
        return None
    label = max(shared, key=lambda label: labels[label])
    return label, _even(labels[label], labels[label] * ROWS * machine.memory / kept)


def _columns(
    problem: KernelProblem,
    machine: Machine,
    labels: Mapping[str, int],
    parts: Sequence[PartPlan],
    operations: int,
    streamed: bool,
) -> int:
    """How many parts of x2 are multiplied one after the other; of Grams where that saves time."""
    m, most = labels[examples_of(problem)[1]], machine.columns
    if machine.batches and (not streamed or num_rows(labels, problem.layout.right) < _MANY_ROWS):
        most = 1  # small products are faster whole, and slices of all rows are copies
    half, full = (
        [part.cost.operations for part in parts if part.way == way]
        for way in ("half_gram", "full_gram")
    )
    if sum(half) > operations / 8:  # or it takes more than it saves
        return m if m <= most else min(most, 2)
    columns = min(_COLUMNS, m)
    saved = sum(full) * (columns - 1) / (2 * columns)  # what is below the diagonal
    more_products = (columns - 1) * len(full)
    if machine.batches or problem.x2 is not None or sum(full) <= operations / 8:
        return 1
    return columns if saved > more_products * machine.launch * machine.balance else 1


def _tile(
    problem: KernelProblem,
    machine: Machine,
    labels: Mapping[str, int],
    parts: Sequence[PartPlan],
    is_cut: bool,
) -> int | None:
    """How many examples a block of the kernel has on either side; None for all."""
    layout = problem.layout
    n = max(labels[side[0]] for side in (layout.left, layout.right))
    rows = max(num_rows(labels, side) for side in (layout.left, layout.right))
    tile = float(n)
    # For it all factors are there at once; without it all Grams are, until they are added up.
    grams = [part for part in parts if part.way == "full_gram"]
    kept = sum(_kept(problem, labels, part) for part in grams)
    kernel = bytes_of(problem) * num_rows(labels, layout.out)
    # A kernel in a cache is pushed through faster as a whole.
    whole = is_cut and kernel <= _CACHE * machine.block
    if rows >= 4 * machine.tile and 2 * kept <= len(grams) * kernel and not whole:
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


def kept_numbers(part: PartPlan) -> int:
    """Numbers that are held for one row of a part's Jacobian."""
    if part.sizes is None or part.way == "identity":
        return part.row_numbers
    return part.sizes.of("rab" if part.way == "jacobian" else "rtb")


def bytes_of(problem: KernelProblem) -> int:
    """Of one number of the Jacobian."""
    return problem.itemsize


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
