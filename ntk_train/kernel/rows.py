"""Rows of the factored Jacobian: what one side of the kernel comes to, block by block.

The derivatives of a few examples, and of a few outputs at a time, are computed and cut down to what
the plan keeps of them: a small Jacobian itself, or the two factors of one that is larger. The
patches and cotangents of a convolution live for one block alone, in a CPU's cache or within a
GPU's memory.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._jax import after, shape_of
from ntk_train._types import PyTree
from ntk_train.kernel.plan import PartPlan, Plan
from ntk_train.program.cotangents import derivatives


class Factored(NamedTuple):
    """One side's Jacobian of one part of a leaf, as the factors of a product.

    Attributes:
      x: [n, r, t, a], without n where examples are coupled; integers [n, r, t, 1] are the
        places of the ones in one-hot rows, -1 for a row of zeros; 1 for a bias.
      g: [*labels of the side, r, t, b], empty for the identity.
    """

    x: jax.Array
    g: jax.Array


class Rows(NamedTuple):
    """One side of the kernel, or a block of its examples.

    Attributes:
      jacobians: for each bundle of the plan its Jacobians [*labels of the side, k].
      factored: for each stack of the plan its factors, side by side along r.
      of_h: with an inner plan J_h [*labels of the side, h].
    """

    jacobians: list[list[jax.Array]]
    factored: list[Factored]
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
    data, factor_x, backward = derivatives(program, sites, whole, problem.theta, jax.tree.leaves(x))

    def uses_of(part: PartPlan) -> list[int]:
        return [number[id(site)] for site in part.sites[side]]

    def x_of(part: PartPlan) -> jax.Array:
        if not part.sites[side]:  # a bias
            return jnp.ones((1, 1, 1), problem.theta[part.leaf].dtype)
        return _joined([factor_x(i, data[i]) for i in uses_of(part)])

    def of_outputs(
        places: jax.Array,
    ) -> tuple[list[list[jax.Array]], list[jax.Array], jax.Array | None]:
        # Made here, for some outputs at a time: all of them would be O x O numbers.
        one_hot = jnp.arange(out.size) == places[:, None]
        one_hot = one_hot.astype(out.dtype).reshape(len(places), *out.shape)
        gs, others = jax.vmap(backward)(one_hot)

        def jacobian(part: PartPlan) -> jax.Array:
            if part.way == "transposed":
                return _flat(others[part.leaf])
            uses = uses_of(part)
            # Patches wait for the cotangents: those of all layers at once take much memory.
            own, g = lax.optimization_barrier(([data[i] for i in uses], [gs[i] for i in uses]))
            formed: list[jax.Array] = []
            for piece in range(part.pieces) if part.pieces > 1 else [None]:
                if formed:
                    own = [after(d, formed[-1]) for d in own]
                x = _joined([factor_x(i, d, piece) for i, d in zip(uses, own, strict=True)])
                formed.append(_form(_joined(g), x))
            return _flat(formed[0] if len(formed) == 1 else jnp.concatenate(formed, axis=-1))

        bundles = [_of_one_dtype([jacobian(parts[i]) for i in bundle]) for bundle in plan.bundles]
        kept = [
            _stacked([_joined([gs[i] for i in uses_of(parts[k])]) for k in stack])
            if parts[stack[0]].way != "identity"
            else jnp.empty((len(places), 0))
            for stack in plan.stacks
        ]
        return bundles, kept, _flat(others[h]) if plan.inner else None

    rows = _in_blocks(of_outputs, outputs, plan.blocks.outputs)
    bundles, gs, of_h = jax.tree.map(lambda row: row.reshape(*shape, *row.shape[1:]), rows)
    factored = [
        Factored(_stacked([x_of(parts[k]) for k in stack]), g)
        for stack, g in zip(plan.stacks, gs, strict=True)
    ]
    return Rows(bundles, factored, of_h)


def _joined(uses: Sequence[jax.Array]) -> jax.Array:
    """Uses of one weight are positions that share it: their cross terms come of themselves."""
    return uses[0] if len(uses) == 1 else jnp.concatenate(uses, axis=-2)


def _stacked(factors: Sequence[jax.Array]) -> jax.Array:
    """Layers of equal sizes are one layer with more r, which is one product in place of many."""
    return factors[0] if len(factors) == 1 else jnp.concatenate(_of_one_dtype(factors), axis=-3)


def _form(g: jax.Array, x: jax.Array) -> jax.Array:
    """J[o,r,b,a] = sum_t g[o,r,t,b] x[r,t,a], for one r as a plain product, which is faster."""
    o, r, t, b = g.shape
    if r == 1:
        g = g[:, 0].transpose(1, 0, 2).reshape(t, o * b)
        return jnp.einsum("tk,ta->ka", g, x[0]).reshape(o, b, x.shape[-1])
    return jnp.einsum("ortb,rta->orba", g, x)


def _flat(rows: jax.Array) -> jax.Array:
    """[o, *rest] to [o, k], also of no rows."""
    return rows.reshape(rows.shape[0], math.prod(rows.shape[1:]))


def _of_one_dtype(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    dtype = jnp.result_type(*arrays)
    return [array.astype(dtype) for array in arrays]


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
