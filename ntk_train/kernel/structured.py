"""Structured derivatives: the kernel from factored Jacobians, which are hardly ever formed.

    Theta[n,o,m,p] = sum_leaf sum_{t,s,a,b}  g1[n,o,t,b] x1[n,t,a]  g2[m,p,s,b] x2[m,s,a]

One backward pass for each output gives the cotangents g of every layer's output at once; with the
layer's inputs x they are the Jacobian of its weight in factored form. (R. Novak, J. Sohl-Dickstein,
S. S. Schoenholz, *Fast Finite Width Neural Tangent Kernel*, ICML 2022, section 3.3.)
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ntk_train._types import ApplyFn, Groups, KernelProblem, PyTree
from ntk_train.kernel.contract import Factored, contract
from ntk_train.kernel.plan import Plan, make_plan
from ntk_train.program.cotangents import derivatives
from ntk_train.program.linear import LinearProgram, linear_program
from ntk_train.program.sites import Site, find_sites
from ntk_train.rules import factors_of


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A problem, linearised and planned; nothing is computed yet."""

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

    return Prepared(plan, program1, program2, cut(sites1), cut(sites2))


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
        kernels = [contract(problem, parts[i].way, left[i], right[i]) for i in own]
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
