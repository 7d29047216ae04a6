"""Jacobian contraction, the plain reference: both Jacobians, parameter by parameter, multiplied.

    Theta[n,o,m,p] = sum_w J1[n,o,w] J2[m,p,w],    J1 = df(x1)/dtheta, J2 = df(x2)/dtheta

It costs N O backward passes and N^2 O^2 P multiplications (R. Novak, J. Sohl-Dickstein,
S. S. Schoenholz, *Fast Finite Width Neural Tangent Kernel*, ICML 2022, section 3.1 and table 1).
"""

import functools
import operator
from collections.abc import Sequence

import jax

from ntk_train._types import ApplyFn, Groups, KernelProblem, PyTree
from ntk_train.kernel.labelled import Labelled, product
from ntk_train.kernel.precision import stages_of


def jacobian_contraction(problem: KernelProblem, groups: Groups) -> list[jax.Array]:
    """The kernel of each group of leaves, in the axes of the layout and at least float32.

    Each parameter's two Jacobians are contracted on their own and the products are added up, so
    that under `jax.jit` the Jacobians need not all be alive at once.
    """
    layout = problem.layout

    def jacobian(f: ApplyFn, x: PyTree) -> list[jax.Array]:  # of each leaf [n, o, *leaf.shape]
        at = functools.partial(jax.jacrev(f), problem.theta)
        return (jax.vmap(at) if problem.batched else at)(x)

    jacobian1 = jacobian(problem.f1, problem.x1)
    jacobian2 = jacobian1 if problem.x2 is None else jacobian(problem.f2, problem.x2)

    arithmetic = stages_of(problem.precision, jax.default_backend()).gram

    def contract(j1: jax.Array, j2: jax.Array, size: int) -> jax.Array:
        left = Labelled(f"{layout.left}w", j1.reshape(*j1.shape[: len(layout.left)], size))
        right = Labelled(f"{layout.right}w", j2.reshape(*j2.shape[: len(layout.right)], size))
        return product(layout.out, left, right, arithmetic).values

    def kernel(leaves: Sequence[int]) -> jax.Array:
        parts = [contract(jacobian1[i], jacobian2[i], problem.theta[i].size) for i in leaves]
        return functools.reduce(operator.add, parts)

    return [kernel(leaves) for leaves in groups]
