"""A kernel, put together from its tiles: some examples of either side at a time."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._types import KernelLayout
from ntk_train.kernel.ways import Setting

Start: TypeAlias = tuple[Any, Any]
"""The first example of a tile on the side of x1 and on that of x2."""


def assemble(
    setting: Setting,
    starts: Sequence[Start],
    tile: Callable[[Start], list[jax.Array]],
    *,
    mirror: bool,
    into: list[jax.Array] | None = None,
    in_loop: bool = True,
) -> list[jax.Array]:
    """Kernels of which each entry is in one of their tiles at least.

    Args:
      setting: of the kernels.
      starts: where the tiles are; later ones replace what is there where they overlap.
      tile: from the first examples of a tile to the tile of each kernel.
      mirror: whether what comes out is symmetric, so that each tile is put across the diagonal too.
      into: kernels of which some tiles are there, None for zeros.
      in_loop: whether the tiles, then all of one shape, are steps of one loop; otherwise each is a
        part of the program of its own.
    """
    layout = setting.problem.layout
    axes = mirrored_axes(layout) if mirror else None

    def place(kernels: list[jax.Array], start: Start) -> list[jax.Array]:
        return _placed(layout, kernels, tile(start), start, axes)

    if into is None:
        shape = [setting.labels[label] for label in layout.out]
        into = [jnp.zeros(shape, part.dtype) for part in jax.eval_shape(lambda: tile(starts[0]))]
    if not starts:
        return into
    if not in_loop:
        for start in starts:
            into = place(into, start)
        return into

    def step(kernels: list[jax.Array], start: jax.Array) -> tuple[list[jax.Array], None]:
        return place(kernels, (start[0], start[1])), None

    return lax.scan(step, into, jnp.asarray(starts))[0]


def is_symmetric(setting: Setting) -> bool:
    """Whether only the tiles on and above the diagonal have to be computed."""
    return setting.problem.x2 is None and mirrored_axes(setting.problem.layout) is not None


def mirrored_axes(layout: KernelLayout) -> list[int] | None:
    """Axes of a tile that make it the one across the diagonal; None if there is no such order."""
    other = dict(zip(layout.left + layout.right, layout.right + layout.left, strict=True))
    if any(other[other[label]] != label for label in other):
        return None
    return [layout.out.index(other[label]) for label in layout.out]


def _placed(
    layout: KernelLayout,
    kernels: Sequence[jax.Array],
    tiles: Sequence[jax.Array],
    start: Start,
    mirrored: Sequence[int] | None,
) -> list[jax.Array]:
    """The kernels with their tiles at a place, and across the diagonal."""
    examples = layout.left[0], layout.right[0]

    def placed(kernel: jax.Array, tile: jax.Array, start: Start) -> jax.Array:
        at = dict(zip(examples, start, strict=True))
        return lax.dynamic_update_slice(kernel, tile, [at.get(v, 0) for v in layout.out])

    kernels = [placed(kernel, tile, start) for kernel, tile in zip(kernels, tiles, strict=True)]
    if mirrored is None:
        return kernels
    # Or what the tiles are the sum of is read once more, across the order that it lies in: 1.5
    # times as slow in all on a fully connected network on a CPU.
    tiles = lax.optimization_barrier(list(tiles))
    return [
        placed(kernel, tile.transpose(mirrored), start[::-1])
        for kernel, tile in zip(kernels, tiles, strict=True)
    ]
