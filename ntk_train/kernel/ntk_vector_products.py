"""NTK-vector products, the other plain reference: one column of the kernel at a time, no Jacobian.

    Theta[n,:,m,p] = J1[n] (J2[m]^T e_p),    a vector-Jacobian then a Jacobian-vector product

A pair of examples costs O backward and O forward passes, N^2 O in all, and no product of Jacobians:
cheap where a forward pass is (R. Novak, J. Sohl-Dickstein, S. S. Schoenholz, *Fast Finite Width
Neural Tangent Kernel*, ICML 2022, section 3.2 and table 1). The forward pass itself adds up the
parameters' parts.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ntk_train._types import ApplyFn, Groups, KernelLayout, KernelProblem, PyTree


def ntk_vector_products(problem: KernelProblem, groups: Groups) -> list[jax.Array]:
    """The kernel of each group of leaves, in the axes of the layout and at least float32."""
    return [_kernel(_restricted(problem, leaves)) for leaves in groups]


def _restricted(problem: KernelProblem, leaves: Sequence[int]) -> KernelProblem:
    """The same problem with all other leaves held constant."""

    def restrict(f: ApplyFn) -> ApplyFn:
        def restricted(theta: list[jax.Array], x: PyTree) -> jax.Array:
            whole = list(problem.theta)
            for i, leaf in zip(leaves, theta, strict=True):
                whole[i] = leaf
            return f(whole, x)

        return restricted

    return dataclasses.replace(
        problem,
        f1=restrict(problem.f1),
        f2=restrict(problem.f2),
        theta=[problem.theta[i] for i in leaves],
        paths=[problem.paths[i] for i in leaves],
    )


def _kernel(problem: KernelProblem) -> jax.Array:
    x1, x2 = problem.x1, problem.x1 if problem.x2 is None else problem.x2
    layout = problem.layout
    if not problem.batched:
        columns = _columns(problem, layout, x1, x2)
        return jnp.einsum(f"{layout.right}{_unshared(layout)}->{layout.out}", columns)

    n, m = layout.left[0], layout.right[0]
    pair = KernelLayout(layout.left[1:], layout.right[1:], layout.out.replace(n, "").replace(m, ""))

    def columns_of_pair(x_n: PyTree, x_m: PyTree) -> jax.Array:
        return _columns(problem, pair, x_n, x_m)

    if n == m:  # a trace or a diagonal over examples: only pairs of an example with itself
        examples, columns = n, jax.vmap(columns_of_pair)(x1, x2)
    else:
        of_each = jax.vmap(jax.vmap(columns_of_pair, (None, 0)), (0, None))
        examples, columns = n + m, of_each(x1, x2)
    return jnp.einsum(f"{examples}{pair.right}{_unshared(pair)}->{layout.out}", columns)


def _unshared(layout: KernelLayout) -> str:
    return "".join(label for label in layout.left if label not in layout.shared)


def _columns(problem: KernelProblem, layout: KernelLayout, x1: PyTree, x2: PyTree) -> jax.Array:
    """Columns of the kernel: [*layout.right, *unshared labels of layout.left].

    Of the labels that stand on both sides only the diagonal is kept, column by column.
    """
    theta = problem.theta
    y2, pullback = jax.vjp(lambda theta: problem.f2(theta, x2), theta)
    if not y2.size:  # no column, of which the code below could not index one
        y1 = jax.eval_shape(problem.f1, theta, x1)
        sizes = dict(zip(layout.left, y1.shape, strict=True))
        unshared = [sizes[label] for label in _unshared(layout)]
        return jnp.zeros((*y2.shape, *unshared), jnp.promote_types(y1.dtype, jnp.float32))

    def column(index: jax.Array) -> jax.Array:
        one_hot = jnp.zeros(math.prod(y2.shape), y2.dtype).at[index].set(1)
        (tangent,) = pullback(one_hot.reshape(y2.shape))
        _, column = jax.jvp(lambda theta: problem.f1(theta, x1), (theta,), (tangent,))
        column = column.astype(jnp.promote_types(column.dtype, jnp.float32))  # [*layout.left]
        position = dict(zip(layout.right, jnp.unravel_index(index, y2.shape), strict=True))
        for axis in reversed(range(len(layout.left))):
            if layout.left[axis] in layout.shared:
                column = jnp.take(column, position[layout.left[axis]], axis=axis)
        return column

    columns = jax.vmap(column)(jnp.arange(math.prod(y2.shape)))
    return columns.reshape(*y2.shape, *columns.shape[1:])
