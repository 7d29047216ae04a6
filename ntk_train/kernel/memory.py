"""How much is computed at once, so that it fits in memory, and what is in use in a cache.

The rows of the factored Jacobian come in one of two ways. Examples go one block after the other,
what is between their patches and their rows staying in a cache, and all rows are kept; or layers
do, all examples at once, and the rows of one layer are there at a time (`streamed`). Of a trace or
diagonal the rows of some outputs can be there at a time. Where none of that fits, the kernel is
made of kernels of fewer examples (`Tiles`).
"""

import math
from collections.abc import Sequence

from ntk_train.kernel.machine import BETWEEN, ROWS
from ntk_train.kernel.plan import Blocks, PartPlan, Plan, Work
from ntk_train.kernel.ways import FullGram, HalfGram, Identity, Jacobian, Transposed

# Measured on the devices of `machine.MACHINES`, with networks of the benchmarks.
_CACHE = 4  # blocks that a cache holds
_COLUMNS = 4  # tiles in a program, for more take long to compile
_MANY_ROWS = 256  # from which an accelerator is busy with a tile of them
_SHARE = 1 / 8  # of all operations that a product must have, or tiles cost more than they save
_TILES = 4  # on a side of the kernel, from which tiles in a loop are faster


def blocks_of(work: Work, operations: int, *, is_cut: bool, streamed: bool | None = None) -> Blocks:
    """Decides how much is computed at once.

    Args:
      work: what to compute.
      operations: of the whole, derivatives included.
      is_cut: whether the kernel of a bottleneck is pushed through to this one.
      streamed: whether layers go one after the other, None to decide.
    """
    if streamed is None:
        streamed = is_streamed(work)
    blocks = _blocks(work, operations, is_cut, streamed)
    if streamed and _needed(work, blocks) > work.machine.memory:
        # The cotangents of all examples and outputs are too much: not all of them at once.
        other = _blocks(work, operations, is_cut, streamed=False)
        blocks = min(blocks, other, key=lambda blocks: _needed(work, blocks))
    return blocks


def _blocks(work: Work, operations: int, is_cut: bool, streamed: bool) -> Blocks:
    traced = _traced(work, streamed)
    work = work.of_some(traced)
    (n, m), out = work.problem.example_labels, work.problem.layout.out
    blocked = n != m and {n, m} <= set(out) and all(work.setting.labels.values())
    tile = _tile(work, is_cut) if blocked else None
    columns = 1
    if blocked and tile is None:
        columns = _columns(work, operations, streamed)
    examples, outputs = _rows_at_once(work, streamed)
    return Blocks(examples, outputs, tile, columns, traced, streamed)


def bytes_needed(plan: Plan) -> int:
    """About how many bytes the kernel takes beside its arguments and itself."""
    needed = _needed(plan.work, plan.blocks)
    if plan.inner is None:
        return needed
    between = plan.problem.itemsize * plan.inner.setting.size(plan.inner.problem.layout.out)
    return between + max(needed, bytes_needed(plan.inner))


def is_bounded(plan: Plan) -> bool:
    """Whether memory, and no cache, says how much is computed at once."""
    some_outputs = plan.blocks.outputs < plan.work.of_some(plan.blocks.traced).outputs
    bounded = plan.tiles is not None or plan.blocks.traced is not None or some_outputs
    return bounded or (plan.inner is not None and is_bounded(plan.inner))


def _needed(work: Work, blocks: Blocks) -> int:
    work = work.of_some(blocks.traced)
    problem, number = work.problem, work.problem.itemsize
    kept = work.kept
    derivatives = _derivatives(work, blocks.outputs, blocks.streamed)
    if blocks.streamed:
        derivatives *= _sides(work)
    elif (problem.batched and blocks.examples < work.examples) or blocks.outputs < work.outputs:
        kept = [sum(kept)]  # a loop
    # Without a loop, the rows of one layer after the other.
    needed = blocks.examples * derivatives + max(kept, default=0)
    grams = [part.way.sizes for part in work.parts if isinstance(part.way, FullGram)]
    if blocks.tile is None and grams:  # until they are added up
        needed += number * len(grams) * work.setting.size(problem.layout.out)
        gram = max(size.of(problem.layout.out + "rts") for size in grams)
        needed += number * gram
    return needed


def _derivatives(work: Work, outputs: int, streamed: bool) -> int:
    """Bytes that are there while the derivatives of an example are taken.

    They are patches of one layer, what was kept of the forward pass, and the cotangents: those of
    one layer after the other, or of all layers at once.
    """
    return work.forward + outputs * (work.passing if streamed else work.together)


def _sides(work: Work) -> int:
    return 1 if work.problem.x2 is None else 2


def is_streamed(work: Work) -> bool:
    """Whether layers go one after the other: where caches are small, or it takes less memory."""
    problem, machine = work.problem, work.machine
    kept = sum(work.kept)
    n = work.setting.labels[problem.layout.left[0]] if problem.batched else 1
    activations = sum(part.way.cotangent_numbers for part in work.parts)
    forward = 2 * problem.itemsize * n * activations
    room = 2 * BETWEEN * machine.memory
    if machine.is_accelerator:  # a CPU is as fast at one example at a time
        room = machine.memory / (2 * _sides(work))
    if forward > room:
        return False
    if machine.is_accelerator or kept > ROWS * machine.memory:
        return True
    return _layers_take_less(work)


def _layers_take_less(work: Work) -> bool:
    """Whether one layer at a time takes less memory than blocks of examples, all in a cache."""
    others, formed = _cut_parts(work)
    if not formed or len(formed) < len(others):
        return False  # of the factors themselves a compiler keeps one layer at a time anyhow
    block, outputs = _rows_at_once(work, streamed=False)
    return _of_layers(work, outputs) < _of_blocks(work, block, outputs)


def _of_layers(work: Work, outputs: int) -> float:
    """Bytes that all examples take at once, where what is kept of a layer goes with it."""
    problem, (others, formed) = work.problem, _cut_parts(work)
    number = problem.itemsize
    examples = work.setting.labels[problem.layout.left[0]] if problem.batched else 1
    cotangents = [number * part.way.cotangent_numbers for part in others]
    layer = _patches_of(work, formed) + sum(cotangents) + 2 * outputs * max(cotangents)
    return examples * layer + max(map(work.kept_of, others))


def _of_blocks(work: Work, block: int, outputs: int) -> float:
    """Bytes that a loop over blocks of examples takes, with the rows of all."""
    others, formed = _cut_parts(work)
    cotangents = work.problem.itemsize * sum(way.cotangent_numbers for way in formed)
    kept = sum(map(work.kept_of, others))
    return block * (_patches_of(work, formed) + (1 + outputs) * cotangents) + kept


def _cut_parts(work: Work) -> tuple[list[PartPlan], list[Jacobian]]:
    """The parts with factors that are used, and the ways of those whose Jacobians are formed."""
    others = [part for part in work.parts if not isinstance(part.way, Identity | Transposed)]
    return others, [part.way for part in others if isinstance(part.way, Jacobian)]


def _patches_of(work: Work, formed: Sequence[Jacobian]) -> float:
    """Bytes of the patches of one layer: they are there twice, each tap's, and side by side."""
    return 2 * work.problem.itemsize * max(way.patch_numbers / way.pieces for way in formed)


def _rows_at_once(work: Work, streamed: bool) -> tuple[int, int]:
    """Of how many examples and outputs the derivatives are computed at once."""
    machine, n, outputs = work.machine, work.examples, work.outputs
    if streamed:
        return n, outputs
    examples, number = n, work.problem.itemsize
    kept, between = sum(work.kept), BETWEEN * machine.memory
    room = max(machine.memory - kept, between)
    limit = between
    if not machine.is_accelerator:  # as many as stay in a cache
        others, formed = _cut_parts(work)
        patches = number * sum(way.patch_numbers for way in formed)
        cotangents = number * sum(way.cotangent_numbers for way in formed)
        example = patches + outputs * cotangents
        limit = room
        # Or the loop would take more than it saves.
        if example * n > max(machine.block, work.rows * number * work.row_numbers / 2):
            block = _block_size(n, machine.block / example)
            # A loop keeps the factors of all layers, which without one go with their layer.
            whole = _of_layers(work, outputs) + n * outputs * work.passing
            if len(formed) == len(others) or _of_blocks(work, block, outputs) < whole:
                examples, limit = block, between
    example = _derivatives(work, outputs, streamed)
    if example * examples > room:
        examples = _block_size(n, room / example)
    if outputs and example > limit:
        outputs = _block_size(outputs, (limit - work.forward) / max(work.together, 1))
    return examples, outputs


def _traced(work: Work, streamed: bool) -> tuple[str, int] | None:
    """Of which outputs of a trace or diagonal the rows fit in memory; None for all."""
    layout, memory = work.problem.layout, work.machine.memory
    shared = [label for label in layout.shared if label not in work.problem.example_labels]
    if not shared:
        return None
    kept = max(work.kept, default=0) if streamed else sum(work.kept)
    part = kept / (ROWS * memory)
    if streamed:
        passes = work.examples * _sides(work)
        room = max(memory - passes * work.forward, BETWEEN * memory)
        part = max(part, (kept + passes * work.outputs * work.passing) / room)
    if part <= 1:
        return None
    label = max(shared, key=lambda label: work.setting.labels[label])
    return label, _block_size(work.setting.labels[label], work.setting.labels[label] / part)


def _columns(work: Work, operations: int, streamed: bool) -> int:
    """How many parts of x2 are multiplied one after the other; of Grams where that saves time."""
    problem, machine, setting = work.problem, work.machine, work.setting
    m, most = setting.size(problem.example_labels[1]), machine.columns
    few_rows = setting.size(problem.layout.right) < _MANY_ROWS
    if machine.is_accelerator and (few_rows or not streamed):
        most = 1  # small products are faster whole, and slices of all rows are copies
    half, full = (
        [part.cost.operations for part in work.parts if isinstance(part.way, way)]
        for way in (HalfGram, FullGram)
    )
    if sum(half) > _SHARE * operations:
        return m if m <= most else min(most, 2)
    columns = min(_COLUMNS, m)
    saved = sum(full) * (columns - 1) / (2 * columns)  # what is below the diagonal
    more_products = (columns - 1) * len(full)
    if machine.is_accelerator or problem.x2 is not None or sum(full) <= _SHARE * operations:
        return 1
    return columns if saved > more_products * machine.copied_per_product * machine.balance else 1


def _tile(work: Work, is_cut: bool) -> int | None:
    """How many examples a block of the kernel has on either side; None for all."""
    layout, machine, number = work.problem.layout, work.machine, work.problem.itemsize
    n = max(work.setting.labels[side[0]] for side in (layout.left, layout.right))
    rows = work.rows
    tile = float(n)
    # For it all factors are there at once; without it all Grams are, until they are added up.
    grams = [part for part in work.parts if isinstance(part.way, FullGram)]
    kept = sum(work.kept_of(part) for part in grams)
    kernel = number * work.setting.size(layout.out)
    # A kernel in a cache is pushed through faster as a whole.
    whole = is_cut and kernel <= _CACHE * machine.block
    if rows >= _TILES * machine.tile and 2 * kept <= len(grams) * kernel and not whole:
        tile = machine.tile // (rows // n)
    # Z has the examples of both sides.
    pairs = [
        part.way.sizes.of(layout.left + layout.right[0] + "rsb")
        for part in work.parts
        if isinstance(part.way, HalfGram)
    ]
    between = number * max(pairs, default=0)
    if between > BETWEEN * machine.memory:
        tile = min(tile, n * math.sqrt(BETWEEN * machine.memory / between))
    return max(1, int(tile)) if tile < n else None


def _block_size(n: int, most: float) -> int:
    """Into blocks of which size to cut n: at most so large, of equal sizes where that is near."""
    size = min(max(1, int(most)), n)
    divisor = next(divisor for divisor in range(size, 0, -1) if n % divisor == 0)
    return divisor if 2 * divisor > size else size
