"""The kernel from the rows of both sides, each part in the plan's way.

    Theta[n,o,m,p] = sum_{r,t,s,a,b}  g1[n,o,r,t,b] x1[n,r,t,a]  g2[m,p,r,s,b] x2[m,r,s,a]

Labels of size 1 among r, t, s, a, b are left out of every product: with them XLA transposes what
would be plain matrices, four times slower in all on a fully connected network on a CPU.
"""

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntk_train._jax import after
from ntk_train._types import KernelProblem
from ntk_train.kernel.plan import Plan, examples_of
from ntk_train.kernel.rows import Factored, Rows


class _Labelled(NamedTuple):
    labels: str
    values: jax.Array


def contract(plan: Plan, rows1: Rows, rows2: Rows, group: int) -> jax.Array:
    """The kernel of one group of leaves.

    Args:
      plan: says what the rows are and how to contract them.
      rows1: the side of x1, or a block of its examples.
      rows2: the side of x2.
      group: number of the group.

    Returns:
      The kernel in the axes of the layout.
    """
    problem, leaves = plan.problem, plan.groups[group]
    layout = problem.layout
    pairs = [  # of what is multiplied over k
        (_bundled(f"{layout.left}k", j1), _bundled(f"{layout.right}k", j2))
        for bundle, j1, j2 in zip(plan.bundles, rows1.jacobians, rows2.jacobians, strict=True)
        if plan.parts[bundle[0]].leaf in leaves
    ]
    kernels, half = [], []
    for stack, left, right in zip(plan.stacks, rows1.factored, rows2.factored, strict=True):
        part = plan.parts[stack[0]]
        if part.leaf not in leaves:
            continue
        if part.way == "full_gram":
            kernels.append(_full_gram(problem, left, right))
        elif part.way == "identity":
            kernels.append(_identity(plan, left, right))
        else:
            half.append((part.joined, _half_gram(plan, left, right)))
    pairs += [pair for joined, pair in half if not joined]
    if joined_pairs := [pair for joined, pair in half if joined]:
        left_sides, right_sides = zip(*joined_pairs, strict=True)
        pairs.append((_side_by_side(left_sides), _side_by_side(right_sides)))
    kernels += [
        _with_ones(_product(problem, layout.out, left, right), layout.out) for left, right in pairs
    ]
    return functools.reduce(operator.add, [kernel.values for kernel in kernels])


def pushed(plan: Plan, inner: Plan, rows1: Rows, kernel: jax.Array, rows2: Rows) -> jax.Array:
    """J_h Theta_h J_h^T in the axes of the layout.

    Args:
      plan: of what is outside.
      inner: of Theta_h.
      rows1: with J_h of x1.
      kernel: Theta_h.
      rows2: with J_h of x2.
    """
    problem, layout, of_h = plan.problem, plan.problem.layout, inner.problem.layout
    assert rows1.of_h is not None
    assert rows2.of_h is not None
    j1 = _Labelled(layout.left + of_h.left[1:], rows1.of_h)
    j2 = _Labelled(layout.right + of_h.right[1:], rows2.of_h)
    if len(rows2.of_h) and not plan.programs[1].depends_on_x(len(problem.theta)):
        # Of a linear last layer: a plain product, in place of one for each example.
        j2 = _Labelled(j2.labels[1:], rows2.of_h[0])
    half = _product(problem, layout.left + of_h.right, j1, _Labelled(of_h.out, kernel))
    return _product(problem, layout.out, half, j2).values


def _half_gram(plan: Plan, left: Factored, right: Factored) -> tuple[_Labelled, _Labelled]:
    """Z[n,o,m,(r,s,b)] and g[m,p,(r,s,b)], whose product is the part; without m if that is one.

    Of one example of x2 and few positions Z comes with its labels in the order that the product
    needs, from a Gram that is the same for all outputs: two to three times as fast on a CPU.
    """
    problem, layout, (n, m) = plan.problem, plan.problem.layout, examples_of(plan.problem)
    x, g1 = _gram_of_inputs(problem, left, right), _labelled(f"{layout.left}rtb", left.g)
    g2 = _Labelled(layout.right, right.g)
    if not plan.machine.batches and m and m != n and right.g.shape[0] == 1:
        x, g2 = _without(x, m), _without(g2, m)
        if {"t", "s"} <= set(x.labels) and right.g.shape[-2] <= right.g.shape[-1]:
            # Or the Grams of all layers would wait for their cotangents.
            x = _repeated(x._replace(values=after(x.values, g1.values)), g1, layout.left)
        m = ""
    kept = _distinct(f"{m}{layout.left}")
    return _flat(kept, _product(problem, f"{kept}rsb", x, g1).values), _flat(g2.labels, g2.values)


def _without(factor: _Labelled, label: str) -> _Labelled:
    """Leaves out a label of size 1."""
    axis = factor.labels.find(label)
    if axis < 0:
        return factor
    return _Labelled(factor.labels.replace(label, ""), factor.values.squeeze(axis))


def _repeated(x: _Labelled, like: _Labelled, labels: str) -> _Labelled:
    """The factor with labels that it does not have, in their sizes in another factor."""
    inner = "".join(label for label in x.labels if label not in labels)
    size = dict(zip(x.labels + like.labels, x.values.shape + like.values.shape, strict=True))
    shape = [size[label] if label in x.labels else 1 for label in labels + inner]
    values = jnp.broadcast_to(x.values.reshape(shape), [size[v] for v in labels + inner])
    return _Labelled(labels + inner, values)


def _full_gram(problem: KernelProblem, left: Factored, right: Factored) -> _Labelled:
    layout, (n, m) = problem.layout, examples_of(problem)
    g1, g2 = _labelled(f"{layout.left}rtb", left.g), _labelled(f"{layout.right}rsb", right.g)
    x = _gram_of_inputs(problem, left, right)
    kept = _distinct(v for v in layout.left + layout.right if v in layout.out + n + m)
    g = _product(problem, f"{kept}rts", g1, g2)
    # Entry by entry: as one more matrix product this would be many tiny ones.
    shape = [size if v in x.labels else 1 for v, size in zip(g.labels, g.values.shape, strict=True)]
    both = _Labelled(g.labels, g.values * x.values.reshape(shape))
    return _Labelled(layout.out, jnp.einsum(f"{both.labels}->{layout.out}", both.values))


def _identity(plan: Plan, left: Factored, right: Factored) -> _Labelled:
    """X x^T at equal outputs: with Theta[n,o,m,p] = X[n,m] (o == p)."""
    problem, layout = plan.problem, plan.problem.layout
    x = _gram_of_inputs(problem, left, right)
    first = 1 if problem.batched else 0
    factors, labels = [x.values], [x.labels]
    for o, p in zip(layout.left[first:], layout.right[first:], strict=True):
        size = plan.labels[o]
        if o != p:
            factors.append(jnp.eye(size, dtype=x.values.dtype))
            labels.append(o + p)
        elif o in layout.out:
            factors.append(jnp.ones(size, x.values.dtype))
            labels.append(o)
        else:  # a trace of the identity, which is not formed
            factors[0] = size * factors[0]
    return _Labelled(layout.out, jnp.einsum(f"{','.join(labels)}->{layout.out}", *factors))


def _gram_of_inputs(problem: KernelProblem, left: Factored, right: Factored) -> _Labelled:
    """The products of inputs, x x^T over a, with the labels n, m, r, t, s."""
    n, m = examples_of(problem)
    out = _distinct(f"{n}{m}rts")
    if not jnp.issubdtype(left.x.dtype, jnp.integer):
        x1, x2 = _labelled(f"{n}rta", left.x), _labelled(f"{m}rsa", right.x)
        return _product(problem, out, x1, x2)
    i, j = left.x[..., 0], right.x[..., 0]  # [n, r, t], [m, r, s]
    if n != m:
        i, j = i[:, None], j[None, :]
    i, j = i[..., :, None], j[..., None, :]
    dtype = jnp.result_type(jnp.float32, *problem.theta)
    return _labelled(out, ((i == j) & (i >= 0)).astype(dtype))


def _labelled(labels: str, values: jax.Array) -> _Labelled:
    """Leaves out inner labels of size 1."""
    pairs = list(zip(labels, values.shape, strict=True))
    kept = [(label, size) for label, size in pairs if label not in "rtsab" or size != 1]
    return _Labelled("".join(v for v, _ in kept), values.reshape([size for _, size in kept]))


def _product(problem: KernelProblem, out: str, left: _Labelled, right: _Labelled) -> _Labelled:
    """A product of the kernel itself: never below float32, unless asked for."""
    out = _present(out, left, right)
    einsum = functools.partial(
        jnp.einsum,
        precision=problem.precision or "highest",
        preferred_element_type=jnp.promote_types(left.values.dtype, jnp.float32),
    )
    inner = "".join(v for v in left.labels if v in right.labels)
    rows1, rows2 = left.labels.removesuffix(inner), right.labels.removesuffix(inner)
    if not inner or out != rows1 + rows2 or set(inner) & set(out):
        values = einsum(f"{left.labels},{right.labels}->{out}", left.values, right.values)
        return _Labelled(out, values)
    # Two plain matrices: of more axes XLA makes a transposed copy of the second on a CPU.
    values = einsum("ik,jk->ij", _matrix(left, len(rows1)), _matrix(right, len(rows2)))
    shape = left.values.shape[: len(rows1)] + right.values.shape[: len(rows2)]
    return _Labelled(out, values.reshape(shape))


def _matrix(factor: _Labelled, num_rows: int) -> jax.Array:
    """[*rows, *rest] to [rows, rest], also of no rows or columns."""
    shape = factor.values.shape
    return factor.values.reshape(math.prod(shape[:num_rows]), math.prod(shape[num_rows:]))


def _with_ones(kernel: _Labelled, out: str) -> _Labelled:
    """With the label that was left out for its size of 1."""
    shape = iter(kernel.values.shape)
    return _Labelled(
        out, kernel.values.reshape([next(shape) if v in kernel.labels else 1 for v in out])
    )


def _present(out: str, left: _Labelled, right: _Labelled) -> str:
    return "".join(label for label in out if label in left.labels + right.labels)


def _distinct(labels: Any) -> str:
    return "".join(dict.fromkeys(labels))


def _flat(labels: str, factor: jax.Array) -> _Labelled:
    """[*labels, *rest] to [*labels, k]."""
    rows, rest = factor.shape[: len(labels)], factor.shape[len(labels) :]
    return _Labelled(f"{labels}k", factor.reshape(*rows, math.prod(rest)))


def _side_by_side(factors: Sequence[_Labelled]) -> _Labelled:
    return _bundled(factors[0].labels, [factor.values for factor in factors])


def _bundled(labels: str, values: Sequence[jax.Array]) -> _Labelled:
    return _Labelled(labels, values[0] if len(values) == 1 else jnp.concatenate(values, axis=-1))
