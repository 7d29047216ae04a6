"""Structured derivatives: the kernel from factored Jacobians, which are hardly ever formed.

    Theta[n,o,m,p] = sum_leaf sum_{t,s,a,b}  g1[n,o,t,b] x1[n,t,a]  g2[m,p,s,b] x2[m,s,a]

One backward pass for each output gives the cotangents g of every layer's output at once; with the
layer's inputs x they are the Jacobian of its weight in factored form. (R. Novak, J. Sohl-Dickstein,
S. S. Schoenholz, *Fast Finite Width Neural Tangent Kernel*, ICML 2022, section 3.3.)
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntk_train._types import ApplyFn, Groups, KernelProblem, PyTree
from ntk_train.kernel.plan import Plan, examples_of, make_plan
from ntk_train.program.cotangents import derivatives
from ntk_train.program.linear import LinearProgram, linear_program
from ntk_train.program.sites import Site, find_sites
from ntk_train.rules import factors_of


class Factored(NamedTuple):
    """One side's Jacobian of one leaf, as the factors of a product.

    Attributes:
      x: [n, r, t, a], without n where examples are coupled; integers [n, r, t, 1] are the
        places of the ones in one-hot rows, -1 for a row of zeros.
      g: [*labels of the side, r, t, b].
    """

    x: jax.Array
    g: jax.Array


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A problem, linearised and planned; nothing is computed yet."""

    problem: KernelProblem
    plan: Plan
    program1: LinearProgram
    program2: LinearProgram
    sites1: Sequence[Site]
    sites2: Sequence[Site]


def prepare(problem: KernelProblem) -> Prepared:
    """Traces both sides, finds their sites and plans each leaf."""
    program1, sites1 = _trace(problem, problem.f1, problem.x1)
    program2, sites2 = program1, sites1
    if problem.x2 is not None:
        program2, sites2 = _trace(problem, problem.f2, problem.x2)
    plan = make_plan(problem, program1, sites1, program2, sites2)

    def cut(sites: Sequence[Site]) -> list[Site]:
        factored = {part.leaf for part in plan.parts if part.way != "transposed"}
        return [site for site in sites if site.view.leaf in factored]

    return Prepared(problem, plan, program1, program2, cut(sites1), cut(sites2))


def structured(problem: KernelProblem, groups: Groups) -> list[jax.Array]:
    """The kernel of each group of leaves, in the axes of the layout and at least float32."""
    prepared = prepare(problem)
    parts = prepared.plan.parts
    side1 = _side(problem, prepared.program1, prepared.sites1, problem.x1)
    left = right = [_of_part(side1, part.leaf, part.sites1) for part in parts]
    if problem.x2 is not None:
        side2 = _side(problem, prepared.program2, prepared.sites2, problem.x2)
        right = [_of_part(side2, part.leaf, part.sites2) for part in parts]

    def kernel(leaves: Sequence[int]) -> jax.Array:
        own = [i for i, part in enumerate(parts) if part.leaf in leaves]
        kernels = [_WAYS[parts[i].way](problem, left[i], right[i]) for i in own]
        return functools.reduce(operator.add, kernels)

    return [kernel(leaves) for leaves in groups]


def _trace(problem: KernelProblem, f: ApplyFn, x: PyTree) -> tuple[LinearProgram, list[Site]]:
    """The linear program of one side, of one example of it where they are independent."""
    shapes = jax.eval_shape(lambda x: x, x)
    if problem.batched:
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), shapes)
    program = linear_program(f, problem.theta, shapes)
    return program, find_sites(program, factors_of)


def _side(
    problem: KernelProblem, program: LinearProgram, sites: Sequence[Site], x: PyTree
) -> tuple[dict[int, Factored], dict[int, jax.Array]]:
    """Factors by the `id` of their site, Jacobians [*labels, *leaf.shape] by their leaf."""

    def of_one(x: PyTree) -> tuple[list, dict]:
        return derivatives(program, sites, problem.theta, jax.tree.leaves(x))

    of_all: Callable = jax.vmap(of_one) if problem.batched else of_one
    factors, jacobians = of_all(x)
    by_site = {id(site): Factored(*pair) for site, pair in zip(sites, factors, strict=True)}
    return by_site, jacobians


def _of_part(
    side: tuple[dict[int, Factored], dict[int, jax.Array]], leaf: int, sites: Sequence[Site]
) -> Factored | jax.Array:
    """Uses of one weight are positions that share it: their cross terms come of themselves."""
    by_site, jacobians = side
    if not sites:
        return jacobians[leaf]
    xs, gs = zip(*(by_site[id(site)] for site in sites), strict=True)
    return Factored(jnp.concatenate(xs, axis=-2), jnp.concatenate(gs, axis=-2))


def _transposed(problem: KernelProblem, j1: jax.Array, j2: jax.Array) -> jax.Array:
    layout = problem.layout
    return _product(
        problem,
        f"{layout.left}w,{layout.right}w->{layout.out}",
        _flat(j1, len(layout.left)),
        _flat(j2, len(layout.right)),
    )


def _jacobian(problem: KernelProblem, leaf1: Factored, leaf2: Factored) -> jax.Array:
    def form(labels: str, example: str, leaf: Factored) -> jax.Array:
        return jnp.einsum(f"{labels}rtb,{example}rta->{labels}rab", leaf.g, leaf.x)

    layout, (n, m) = problem.layout, examples_of(problem)
    j1 = form(layout.left, n, leaf1)
    j2 = j1 if leaf2 is leaf1 else form(layout.right, m, leaf2)
    return _transposed(problem, j1, j2)


def _half_gram(problem: KernelProblem, leaf1: Factored, leaf2: Factored) -> jax.Array:
    layout, (n, m) = problem.layout, examples_of(problem)
    nm, left_m = _distinct(n + m), _distinct(layout.left + m)
    x = _gram_of_inputs(problem, leaf1, leaf2)
    z = _product(problem, f"{nm}rts,{layout.left}rtb->{left_m}rsb", x, leaf1.g)
    return _product(problem, f"{left_m}rsb,{layout.right}rsb->{layout.out}", z, leaf2.g)


def _full_gram(problem: KernelProblem, leaf1: Factored, leaf2: Factored) -> jax.Array:
    layout, (n, m) = problem.layout, examples_of(problem)
    nm = _distinct(n + m)
    kept = _distinct(v for v in layout.left + layout.right if v in layout.out + nm)
    x = _gram_of_inputs(problem, leaf1, leaf2)
    g = _product(problem, f"{layout.left}rtb,{layout.right}rsb->{kept}rts", leaf1.g, leaf2.g)
    # Entry by entry: as one more matrix product this would be many tiny ones.
    sizes = [size if label in nm else 1 for label, size in zip(kept, g.shape, strict=False)]
    return jnp.einsum(f"{kept}rts->{layout.out}", g * x.reshape(*sizes, *x.shape[-3:]))


def _gram_of_inputs(problem: KernelProblem, leaf1: Factored, leaf2: Factored) -> jax.Array:
    """The products of inputs, x x^T over a: [n, m, r, t, s]."""
    n, m = examples_of(problem)
    expression = f"{n}rta,{m}rsa->{_distinct(n + m)}rts"
    if not jnp.issubdtype(leaf1.x.dtype, jnp.integer):
        return _product(problem, expression, leaf1.x, leaf2.x)
    i, j = leaf1.x[..., 0], leaf2.x[..., 0]  # [n, r, t], [m, r, s]
    if n != m:
        i, j = i[:, None], j[None, :]
    i, j = i[..., :, None], j[..., None, :]
    return ((i == j) & (i >= 0)).astype(leaf1.g.dtype)


_WAYS: dict[str, Callable[[KernelProblem, Any, Any], jax.Array]] = {
    "transposed": _transposed,
    "jacobian": _jacobian,
    "half_gram": _half_gram,
    "full_gram": _full_gram,
}


def _product(problem: KernelProblem, expression: str, *operands: jax.Array) -> jax.Array:
    """A product of the kernel itself: never below float32, unless asked for."""
    return jnp.einsum(
        expression,
        *operands,
        precision=problem.precision or "highest",
        preferred_element_type=jnp.promote_types(operands[0].dtype, jnp.float32),
    )


def _distinct(labels: Any) -> str:
    return "".join(dict.fromkeys(labels))


def _flat(jacobian: jax.Array, num_labels: int) -> jax.Array:
    """[*labels, *rest] to [*labels, w]."""
    labels, rest = jacobian.shape[:num_labels], jacobian.shape[num_labels:]
    return jacobian.reshape(*labels, math.prod(rest))
