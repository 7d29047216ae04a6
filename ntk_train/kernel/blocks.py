"""The kernel block by block: what lies between its factors and its entries stays in a cache.

Of the kernel of x1 with itself only the blocks on and above the diagonal are computed.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._types import KernelLayout
from ntk_train.kernel.contract import contract
from ntk_train.kernel.plan import Plan
from ntk_train.kernel.rows import Rows, block_of, block_starts


def kernels_of(plan: Plan, rows1: Rows, rows2: Rows) -> list[jax.Array]:
    """The kernel of each group of leaves from the rows of both sides."""

    def block(rows1: Rows, rows2: Rows) -> list[jax.Array]:
        return [contract(plan, rows1, rows2, group) for group in range(len(plan.groups))]

    problem, layout, size = plan.problem, plan.problem.layout, plan.blocks.tile
    if size is None:
        return block(rows1, rows2)
    n, m = (plan.labels[labels[0]] for labels in (layout.left, layout.right))
    size1, size2 = min(size, n), min(size, m)
    mirror = _mirror(layout) if problem.x2 is None else None
    starts = [
        (start1, start2)
        for start1 in block_starts(n, size1)
        for start2 in block_starts(m, size2)
        if mirror is None or start1 <= start2
    ]

    def place(kernel: jax.Array, part: jax.Array, start1: jax.Array, start2: jax.Array) -> Any:
        at = {layout.left[0]: start1, layout.right[0]: start2}
        return lax.dynamic_update_slice(kernel, part, [at.get(v, 0) for v in layout.out])

    def step(kernels: list[jax.Array], start: jax.Array) -> tuple[list[jax.Array], None]:
        start1, start2 = start[0], start[1]
        parts = block(block_of(rows1, start1, size1), block_of(rows2, start2, size2))
        kernels = [place(k, part, start1, start2) for k, part in zip(kernels, parts, strict=True)]
        if mirror is not None:
            kernels = [
                place(k, part.transpose(mirror), start2, start1)
                for k, part in zip(kernels, parts, strict=True)
            ]
        return kernels, None

    shape = [plan.labels[label] for label in layout.out]
    dtypes = [part.dtype for part in jax.eval_shape(block, rows1, rows2)]
    kernels, _ = lax.scan(step, [jnp.zeros(shape, dtype) for dtype in dtypes], jnp.asarray(starts))
    return kernels


def _mirror(layout: KernelLayout) -> list[int] | None:
    """Axes of a block that make it the one across the diagonal; None if there is no such order."""
    other = dict(zip(layout.left + layout.right, layout.right + layout.left, strict=True))
    if any(other[other[label]] != label for label in other):
        return None
    return [layout.out.index(other[label]) for label in layout.out]
