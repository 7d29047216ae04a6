"""The kernel block by block: what lies between its factors and its entries stays in a cache.

Of the kernel of x1 with itself only the blocks on and above the diagonal are computed.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._types import KernelLayout, PyTree
from ntk_train.kernel.contract import contract, pushed
from ntk_train.kernel.plan import NumberedGroups, Plan, Tiles, examples_of
from ntk_train.kernel.rows import Rows, block_of, block_starts, rows_of
from ntk_train.kernel.streamed import streamed


def kernels_of(plan: Plan, x1: PyTree, x2: PyTree | None) -> list[jax.Array]:
    """The kernel of each group of leaves.

    Args:
      plan: of all of them.
      x1: inputs of one side.
      x2: of the other, None for the same.
    """
    if plan.tiles is not None:
        return _of_tiles(plan, plan.tiles, x1, x2)
    if plan.inner is None:
        kernels = _of_level(plan, x1, x2)
        return [kernels[group] for group in plan.groups]
    inner = _of_level(plan.inner, x1, x2)
    own = {group: leaves for group, leaves in plan.groups.items() if leaves}
    if plan.blocks.tile is not None and not plan.blocks.streamed:
        rows = _rows_of_both(dataclasses.replace(plan, groups=own), x1, x2)
        block = functools.partial(_pushed_block, plan, own, inner)
        return _tiled(plan, plan.blocks.tile, *rows, block)
    kernels = _of_level(plan, x1, x2)
    of_h = dataclasses.replace(plan, groups={}, bundles=[], stacks=[])
    rows1, rows2 = _rows_of_both(of_h, x1, x2)
    for group, kernel in inner.items():
        part = pushed(plan, plan.inner, rows1, kernel, rows2)
        kernels[group] = kernels[group] + part if group in kernels else part
    return [kernels[group] for group in plan.groups]


def _of_tiles(plan: Plan, tiles: Tiles, x1: PyTree, x2: PyTree | None) -> list[jax.Array]:
    """The kernel of each group of leaves, from those of a few examples with a few others."""
    layout = plan.problem.layout
    mirror = _mirror(layout) if x2 is None else None
    inputs = x1, x1 if x2 is None else x2
    totals = [plan.labels[labels[0]] for labels in (layout.left, layout.right)]
    sizes = [min(tiles.size, total) for total in totals]
    starts = [block_starts(*total) for total in zip(totals, sizes, strict=True)]
    pairs = [(i, j) for i in starts[0] for j in starts[1] if mirror is None or i < j]

    def of_pair(start: tuple[Any, Any]) -> list[jax.Array]:
        left, right = (block_of(*at) for at in zip(inputs, start, sizes, strict=True))
        return kernels_of(tiles.other, left, right)

    def of_itself(start: tuple[Any, Any]) -> list[jax.Array]:
        assert tiles.own is not None
        return kernels_of(tiles.own, block_of(x1, start[0], sizes[0]), None)

    def filled(
        kernels: list[jax.Array],
        part: Callable[[tuple[Any, Any]], list[jax.Array]],
        at: Sequence[tuple[int, int]],
        mirror: Sequence[int] | None,
    ) -> list[jax.Array]:
        def step(kernels: list[jax.Array], start: jax.Array) -> tuple[list[jax.Array], None]:
            pair = start[0], start[1]
            return _place(plan, kernels, part(pair), pair, mirror), None

        return lax.scan(step, kernels, jnp.asarray(at))[0] if at else kernels

    kernels = [_zeros(plan, part.dtype) for part in jax.eval_shape(of_pair, (0, 0))]
    kernels = filled(kernels, of_pair, pairs, mirror)
    if mirror is None:
        return kernels
    # The last, for the last block may overlap the one before it, and these are symmetric.
    return filled(kernels, of_itself, [(i, i) for i in starts[0]], None)


def _pushed_block(
    plan: Plan,
    own: NumberedGroups,
    kernels: Mapping[int, jax.Array],
    rows1: Rows,
    rows2: Rows,
    start: tuple[Any, Any],
) -> list[jax.Array]:
    """A block of the kernel of each group: of the leaves outside of a cut, and J_h Theta_h J_h^T.

    Both at once: the kernel of either alone may be all the memory that there is.
    """
    inner = plan.inner
    assert inner is not None
    assert rows1.of_h is not None
    assert rows2.of_h is not None
    n, m = (inner.problem.layout.out.index(v) for v in examples_of(inner.problem))
    found = {group: contract(plan, rows1, rows2, group) for group in own}
    for group, kernel in kernels.items():
        part = lax.dynamic_slice_in_dim(kernel, start[0], rows1.of_h.shape[0], n)
        part = lax.dynamic_slice_in_dim(part, start[1], rows2.of_h.shape[0], m)
        part = pushed(plan, inner, rows1, part, rows2)
        found[group] = found[group] + part if group in found else part
    return [found[group] for group in plan.groups]


def _of_level(plan: Plan, x1: PyTree, x2: PyTree | None) -> dict[int, jax.Array]:
    """The kernels of the leaves that enter at one level of a cut."""
    groups = {group: leaves for group, leaves in plan.groups.items() if leaves}
    if not groups:
        return {}
    kernels = _of_own_leaves(dataclasses.replace(plan, groups=groups), x1, x2)
    return dict(zip(groups, kernels, strict=True))


def _of_own_leaves(plan: Plan, x1: PyTree, x2: PyTree | None) -> list[jax.Array]:
    """The kernel of each group of leaves; a trace a few outputs at a time."""
    if plan.blocks.traced is None:
        return _of_outputs(plan, x1, x2, 0)
    label, size = plan.blocks.traced
    axis, total = plan.problem.layout.out.find(label), plan.labels[label]

    def part(start: Any, size: int = size) -> list[jax.Array]:
        block = dataclasses.replace(plan, labels={**plan.labels, label: size})
        return _of_outputs(block, x1, x2, start)

    starts = jnp.arange(0, total // size * size, size)
    rest = part(total // size * size, total % size) if total % size else None
    if axis >= 0:  # a diagonal
        kernels = [_side_by_side(stack, axis) for stack in lax.map(part, starts)]
        if rest is None:
            return kernels
        pairs = zip(kernels, rest, strict=True)
        return [jnp.concatenate(pair, axis) for pair in pairs]
    if rest is None:
        rest = [_zeros(plan, kernel.dtype) for kernel in jax.eval_shape(part, 0)]

    def step(kernels: list[jax.Array], start: jax.Array) -> tuple[list[jax.Array], None]:
        return [kernel + new for kernel, new in zip(kernels, part(start), strict=True)], None

    return lax.scan(step, rest, starts)[0]


def _side_by_side(stack: jax.Array, axis: int) -> jax.Array:
    """Parts of a kernel [part, *labels] along one of its axes."""
    moved = jnp.moveaxis(stack, 0, axis)
    return moved.reshape(*moved.shape[:axis], -1, *moved.shape[axis + 2 :])


def _of_outputs(plan: Plan, x1: PyTree, x2: PyTree | None, start: Any) -> list[jax.Array]:
    """The part of the kernel that is of some outputs, or all of it."""
    if plan.blocks.streamed:
        return streamed(plan, x1, x2, start, _contracted)
    return _contracted(plan, *_rows_of_both(plan, x1, x2, start))


def _rows_of_both(plan: Plan, x1: PyTree, x2: PyTree | None, start: Any = 0) -> tuple[Rows, Rows]:
    """The rows of either side, the same for the kernel of x1 with itself."""
    rows1 = rows_of(plan, 0, x1, start)
    return rows1, rows1 if x2 is None else rows_of(plan, 1, x2, start)


def _contracted(plan: Plan, rows1: Rows, rows2: Rows) -> list[jax.Array]:
    if plan.blocks.tile is not None:
        block = functools.partial(_block, plan)
        return _tiled(plan, plan.blocks.tile, rows1, rows2, block)
    if plan.blocks.columns > 1:
        return _by_columns(plan, rows1, rows2, plan.blocks.columns)
    return _block(plan, rows1, rows2)


def _block(plan: Plan, rows1: Rows, rows2: Rows, _: tuple[Any, Any] = (0, 0)) -> list[jax.Array]:
    return [contract(plan, rows1, rows2, group) for group in plan.groups]


def _by_columns(plan: Plan, rows1: Rows, rows2: Rows, columns: int) -> list[jax.Array]:
    """A few examples of x2 at a time; of x1 with itself only what is on and above the diagonal.

    Not in a loop, for which all rows would have to be there at once: here those of a layer go when
    its part is done.
    """
    problem, layout = plan.problem, plan.problem.layout
    m = plan.labels[layout.right[0]]
    mirror = _mirror(layout) if problem.x2 is None else None
    kernels: list[jax.Array] = []
    for i in range(columns):
        start, stop = i * m // columns, (i + 1) * m // columns
        left = rows1 if mirror is None else block_of(rows1, 0, stop)
        parts = _block(plan, left, block_of(rows2, start, stop - start))
        kernels = kernels or [_zeros(plan, part.dtype) for part in parts]
        kernels = _place(plan, kernels, parts, (0, start), mirror)
    return kernels


def _tiled(
    plan: Plan,
    size: int,
    rows1: Rows,
    rows2: Rows,
    block: Callable[[Rows, Rows, tuple[Any, Any]], list[jax.Array]],
) -> list[jax.Array]:
    """Kernels of so many examples of either side at a time, each from `block`."""
    problem, layout = plan.problem, plan.problem.layout
    n, m = (plan.labels[labels[0]] for labels in (layout.left, layout.right))
    size1, size2 = min(size, n), min(size, m)
    mirror = _mirror(layout) if problem.x2 is None else None
    starts = [
        (start1, start2)
        for start1 in block_starts(n, size1)
        for start2 in block_starts(m, size2)
        if mirror is None or start1 <= start2
    ]

    def step(kernels: list[jax.Array], start: jax.Array) -> tuple[list[jax.Array], None]:
        left, right = block_of(rows1, start[0], size1), block_of(rows2, start[1], size2)
        parts = block(left, right, (start[0], start[1]))
        return _place(plan, kernels, parts, (start[0], start[1]), mirror), None

    parts = jax.eval_shape(lambda left, right: block(left, right, (0, 0)), rows1, rows2)
    init = [_zeros(plan, part.dtype) for part in parts]
    kernels, _ = lax.scan(step, init, jnp.asarray(starts))
    return kernels


def _zeros(plan: Plan, dtype: Any) -> jax.Array:
    return jnp.zeros([plan.labels[label] for label in plan.problem.layout.out], dtype)


def _place(
    plan: Plan,
    kernels: Sequence[jax.Array],
    parts: Sequence[jax.Array],
    start: tuple[Any, Any],
    mirror: Sequence[int] | None,
) -> list[jax.Array]:
    """The kernels with parts that start at an example of either side, and across the diagonal."""
    layout = plan.problem.layout
    examples = layout.left[0], layout.right[0]

    def placed(kernel: jax.Array, part: jax.Array, start: tuple[Any, Any]) -> jax.Array:
        at = dict(zip(examples, start, strict=True))
        return lax.dynamic_update_slice(kernel, part, [at.get(v, 0) for v in layout.out])

    kernels = [placed(kernel, part, start) for kernel, part in zip(kernels, parts, strict=True)]
    if mirror is None:
        return kernels
    # Or what the parts are the sum of is read once more, across the order that it lies in: 1.5
    # times as slow in all on a fully connected network on a CPU.
    parts = lax.optimization_barrier(list(parts))
    return [
        placed(kernel, part.transpose(mirror), start[::-1])
        for kernel, part in zip(kernels, parts, strict=True)
    ]


def _mirror(layout: KernelLayout) -> list[int] | None:
    """Axes of a block that make it the one across the diagonal; None if there is no such order."""
    other = dict(zip(layout.left + layout.right, layout.right + layout.left, strict=True))
    if any(other[other[label]] != label for label in other):
        return None
    return [layout.out.index(other[label]) for label in layout.out]
