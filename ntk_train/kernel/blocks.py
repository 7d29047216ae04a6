"""The kernel as the plan has it done: cuts, tiles and blocks, and what comes first of them.

What lies between a tile's factors and its entries stays in a cache. Of the kernel of x1 with itself
only the tiles on and above the diagonal are computed.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._types import PyTree
from ntk_train.kernel.assemble import Start, assemble, is_symmetric
from ntk_train.kernel.contract import contract, pushed
from ntk_train.kernel.plan import Plan, Tiles
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
        return _of_few_examples(plan, plan.tiles, x1, x2)
    if plan.inner is None:
        return _of_own_leaves(plan, x1, x2)
    # The groups that have leaves inside and outside of the cut; some have them on one side alone.
    inner = plan.inner.only(plan.inner.products)
    kernels_of_h = dict(zip(inner.groups, _of_own_leaves(inner, x1, x2), strict=True))
    if plan.blocks.tile is not None and not plan.blocks.streamed:
        rows = _rows_of_both(plan, x1, x2)
        return _in_tiles(plan, *rows, functools.partial(_pushed_tile, plan, kernels_of_h))
    own = plan.only(plan.products)
    kernels = dict(zip(own.groups, _of_own_leaves(own, x1, x2), strict=True))
    rows1, rows2 = _rows_of_both(plan.only([]), x1, x2)
    for group, kernel in kernels_of_h.items():
        part = pushed(plan, plan.inner, rows1, kernel, rows2)
        kernels[group] = kernels[group] + part if group in kernels else part
    return [kernels[group] for group in plan.groups]


def _of_few_examples(plan: Plan, tiles: Tiles, x1: PyTree, x2: PyTree | None) -> list[jax.Array]:
    """The kernel of each group of leaves, from those of a few examples with a few others."""
    layout, symmetric = plan.problem.layout, x2 is None and is_symmetric(plan.setting)
    inputs = x1, x1 if x2 is None else x2
    totals = [plan.labels[labels[0]] for labels in (layout.left, layout.right)]
    sizes = [min(tiles.size, total) for total in totals]
    starts = [block_starts(*total) for total in zip(totals, sizes, strict=True)]
    pairs = [(i, j) for i in starts[0] for j in starts[1] if not symmetric or i < j]

    def of_pair(start: Start) -> list[jax.Array]:
        left, right = (block_of(*at) for at in zip(inputs, start, sizes, strict=True))
        return kernels_of(tiles.other, left, right)

    def of_itself(start: Start) -> list[jax.Array]:
        assert tiles.own is not None
        return kernels_of(tiles.own, block_of(x1, start[0], sizes[0]), None)

    if not symmetric:
        return assemble(plan.setting, pairs, of_pair, mirror=False)
    # Those on the diagonal come last, for the last block may overlap the one before it, and these
    # are symmetric.
    kernels = assemble(plan.setting, pairs, of_pair, mirror=True) if pairs else None
    diagonal = [(i, i) for i in starts[0]]
    return assemble(plan.setting, diagonal, of_itself, mirror=False, into=kernels)


def _pushed_tile(
    plan: Plan, kernels_of_h: Mapping[int, jax.Array], rows1: Rows, rows2: Rows, start: Start
) -> list[jax.Array]:
    """A tile of the kernel of each group: of the leaves outside of a cut, and J_h Theta_h J_h^T.

    Both at once: the kernel of either alone may be all the memory that there is.
    """
    inner = plan.inner
    assert inner is not None
    assert rows1.of_h is not None
    assert rows2.of_h is not None
    n, m = map(inner.problem.layout.out.index, inner.problem.example_labels)
    own = plan.only(plan.products)
    found = dict(zip(own.groups, contract(own, rows1, rows2), strict=True))
    for group, kernel in kernels_of_h.items():
        part = lax.dynamic_slice_in_dim(kernel, start[0], rows1.of_h.shape[0], n)
        part = lax.dynamic_slice_in_dim(part, start[1], rows2.of_h.shape[0], m)
        part = pushed(plan, inner, rows1, part, rows2)
        found[group] = found[group] + part if group in found else part
    return [found[group] for group in plan.groups]


def _of_own_leaves(plan: Plan, x1: PyTree, x2: PyTree | None) -> list[jax.Array]:
    """The kernel of each group of leaves; a trace a few outputs at a time."""
    if not plan.groups:
        return []
    if plan.blocks.traced is None:
        return _of_outputs(plan, x1, x2, 0)
    label, size = plan.blocks.traced
    axis, total = plan.problem.layout.out.find(label), plan.labels[label]

    def part(start: Any, size: int = size) -> list[jax.Array]:
        return _of_outputs(plan.of_some(label, size), x1, x2, start)

    starts = jnp.arange(0, total // size * size, size)
    rest = part(total // size * size, total % size) if total % size else None
    if axis >= 0:  # a diagonal
        kernels = [_side_by_side(stack, axis) for stack in lax.map(part, starts)]
        if rest is None:
            return kernels
        pairs = zip(kernels, rest, strict=True)
        return [jnp.concatenate(pair, axis) for pair in pairs]
    if rest is None:
        rest = [jnp.zeros(kernel.shape, kernel.dtype) for kernel in jax.eval_shape(part, 0)]

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
        return streamed(plan, x1, x2, start, contracted)
    return contracted(plan, *_rows_of_both(plan, x1, x2, start))


def _rows_of_both(plan: Plan, x1: PyTree, x2: PyTree | None, start: Any = 0) -> tuple[Rows, Rows]:
    """The rows of either side, the same for the kernel of x1 with itself."""
    rows1 = rows_of(plan, 0, x1, start)
    return rows1, rows1 if x2 is None else rows_of(plan, 1, x2, start)


def contracted(plan: Plan, rows1: Rows, rows2: Rows) -> list[jax.Array]:
    """The kernel of each group of leaves from the rows of both sides, tile by tile."""
    if plan.blocks.tile is not None:
        return _in_tiles(plan, rows1, rows2, lambda left, right, _: contract(plan, left, right))
    if plan.blocks.columns > 1:
        return _in_columns(plan, rows1, rows2, plan.blocks.columns)
    return contract(plan, rows1, rows2)


def _in_columns(plan: Plan, rows1: Rows, rows2: Rows, columns: int) -> list[jax.Array]:
    """Tiles of all examples of x1, or of those above the diagonal, and a few of x2.

    Not in a loop, for which all rows would have to be there at once: here those of a layer go when
    its part is done.
    """
    m, symmetric = plan.labels[plan.problem.layout.right[0]], is_symmetric(plan.setting)
    stops = {i * m // columns: (i + 1) * m // columns for i in range(columns)}

    def tile(start: Start) -> list[jax.Array]:
        _, first = start
        left = block_of(rows1, 0, stops[first]) if symmetric else rows1
        return contract(plan, left, block_of(rows2, first, stops[first] - first))

    starts = [(0, first) for first in stops]
    return assemble(plan.setting, starts, tile, mirror=symmetric, in_loop=False)


def _in_tiles(
    plan: Plan,
    rows1: Rows,
    rows2: Rows,
    tile: Callable[[Rows, Rows, Start], list[jax.Array]],
) -> list[jax.Array]:
    """Kernels of a few examples of either side at a time, each from its rows and its place."""
    size, layout, symmetric = plan.blocks.tile, plan.problem.layout, is_symmetric(plan.setting)
    assert size is not None
    n, m = (plan.labels[labels[0]] for labels in (layout.left, layout.right))
    size1, size2 = min(size, n), min(size, m)
    starts = [
        (start1, start2)
        for start1 in block_starts(n, size1)
        for start2 in block_starts(m, size2)
        if not symmetric or start1 <= start2
    ]

    def of(start: Start) -> list[jax.Array]:
        left, right = block_of(rows1, start[0], size1), block_of(rows2, start[1], size2)
        return tile(left, right, start)

    return assemble(plan.setting, starts, of, mirror=symmetric)
