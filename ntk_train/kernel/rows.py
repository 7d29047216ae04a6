"""Rows of the factored Jacobian: what one side of the kernel comes to, block by block.

The derivatives of a few examples, and of a few outputs at a time, are computed and cut down to what
the plan keeps of them: a small Jacobian itself, or the two factors of one that is larger. The
patches and cotangents of a convolution live for one block alone, in a CPU's cache or within a
GPU's memory.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._jax import shape_of
from ntk_train._types import PyTree
from ntk_train.kernel.plan import Plan
from ntk_train.kernel.ways import Cotangents, ProductRows, Uses
from ntk_train.kernel.ways.way import rows_of_outputs
from ntk_train.program.cotangents import derivatives


class Rows(NamedTuple):
    """One side of the kernel, or a block of its examples.

    Attributes:
      products: what is kept for each product of the plan.
      of_h: with an inner plan J_h [*labels of the side, h].
    """

    products: list[ProductRows]
    of_h: jax.Array | None


def rows_of(plan: Plan, side: int, x: PyTree, start: Any = 0) -> Rows:
    """The rows of all inputs of one side.

    Args:
      plan: says what is kept of them.
      side: 0 for x1 and 1 for x2.
      x: the inputs.
      start: the first output, where `plan.blocks.traced` takes some at a time.
    """
    return rows_for(plan, side, outputs_of(plan, side, start), x)


def outputs_of(plan: Plan, side: int, start: Any) -> jax.Array:
    """The places [rows of an example] of the outputs of which the rows are the derivatives."""
    out, labels = shape_of(plan.programs[side].out), _row_labels(plan, side)
    places = jnp.arange(out.size).reshape(out.shape)
    if plan.blocks.traced is not None:
        label = plan.blocks.traced[0]
        places = lax.dynamic_slice_in_dim(places, start, plan.labels[label], labels.index(label))
    return places.ravel()


def rows_for(plan: Plan, side: int, outputs: jax.Array, x: PyTree) -> Rows:
    """The rows of all inputs of one side, see `rows_of` and `outputs_of`."""
    of_one = functools.partial(_rows_of_one, plan, side, outputs)
    if not plan.problem.batched:
        return of_one(x)
    return _in_blocks(jax.vmap(of_one), x, plan.blocks.examples)


def _row_labels(plan: Plan, side: int) -> str:
    """Labels of the rows of one example, or of all where they are coupled."""
    labels = plan.problem.layout.right if side else plan.problem.layout.left
    return labels[1:] if plan.problem.batched else labels


def _rows_of_one(plan: Plan, side: int, outputs: jax.Array, x: PyTree) -> Rows:
    """The rows of one example, or of all where they are coupled."""
    problem, parts, program = plan.problem, plan.parts, plan.programs[side]
    # All leaves are cut or differentiated, also those of no group, of whose derivatives the
    # compiler leaves out what is not used.
    as_they_are = {part.leaf for part in parts if not part.sites[side]}
    sites = [site for site in plan.sites[side] if site.view.leaf not in as_they_are]
    number = {id(site): i for i, site in enumerate(sites)}
    h, out = len(problem.theta), shape_of(program.out)
    cut = {site.view.leaf for site in sites}
    whole = [leaf for leaf in range(h) if leaf not in cut] + ([h] if plan.inner else [])
    shape = [plan.labels[label] for label in _row_labels(plan, side)]
    copies = plan.blocks.examples if problem.batched else 1
    forward, to_h, jacobian, _ = plan.setting.stages
    forward = forward._replace(copies=copies)
    to_h = to_h._replace(copies=copies * min(plan.blocks.outputs, len(outputs)))
    data, factor_x, backward = derivatives(
        program, sites, whole, problem.theta, jax.tree.leaves(x), (forward, to_h)
    )

    numbers = [[number[id(site)] for site in part.sites[side]] for part in parts]
    uses = [
        Uses(
            [data[i] for i in own],
            [functools.partial(factor_x, i) for i in own],
            problem.theta[part.leaf].dtype,
            jacobian,
        )
        for part, own in zip(parts, numbers, strict=True)
    ]

    def of_outputs(places: jax.Array) -> tuple[list[list[jax.Array]], jax.Array | None]:
        # Made here, for some outputs at a time: all of them would be O x O numbers.
        one_hot = places[:, None] == jnp.arange(out.size)[None]
        one_hot = one_hot.astype(out.dtype).reshape(len(places), *out.shape)
        gs, others = jax.vmap(backward)(one_hot)

        def rows(i: int) -> jax.Array:
            at_sites = [gs[k] for k in numbers[i]]
            cotangents = Cotangents(len(places), at_sites, others.get(parts[i].leaf))
            return parts[i].way.of_outputs(uses[i], cotangents)

        kept = [own.way.together([rows(i) for i in own.members]) for own in plan.products]
        return kept, rows_of_outputs(others[h]) if plan.inner else None

    rows = _in_blocks(of_outputs, outputs, plan.blocks.outputs)
    gs, of_h = jax.tree.map(lambda row: row.reshape(*shape, *row.shape[1:]), rows)
    products = []
    for own, g in zip(plan.products, gs, strict=True):
        xs = [x for i in own.members for x in parts[i].way.of_example(uses[i])]
        products.append(ProductRows(own.way.together(xs), g))
    return Rows(products, of_h)


def _in_blocks(f: Callable[[PyTree], Any], x: PyTree, size: int) -> Any:
    """f(x) of x with axis 0, block by block; the last block overlaps the one before it."""
    n = jax.tree.leaves(x)[0].shape[0]
    if size >= n:
        return f(x)
    starts = block_starts(n, size)
    blocks = lax.map(lambda start: f(block_of(x, start, size)), jnp.asarray(starts))

    def whole(rows: jax.Array) -> jax.Array:
        if n == len(starts) * size:
            return rows.reshape(n, *rows.shape[2:])
        before = (len(starts) - 1) * size
        first = rows[:-1].reshape(before, *rows.shape[2:])
        return jnp.concatenate([first, rows[-1, before - n :]])

    return jax.tree.map(whole, blocks)


def block_starts(n: int, size: int) -> list[int]:
    """Where blocks of a size start that cover 0..n-1; the last may overlap the one before it."""
    return [min(start, n - size) for start in range(0, n, size)]


def block_of(x: PyTree, start: Any, size: int) -> PyTree:
    """A block of the leading axis of each leaf."""
    return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size), x)
