"""One parameter's part of the kernel from both sides' factors, in each of the plan's ways.

    Theta[n,o,m,p] = sum_{r,t,s,a,b}  g1[n,o,r,t,b] x1[n,r,t,a]  g2[m,p,r,s,b] x2[m,r,s,a]

Labels of size 1 among r, t, s, a, b are left out of every product: with them XLA transposes what
would be plain matrices, four times slower in all on a fully connected network on a CPU.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntk_train._types import KernelProblem
from ntk_train.kernel.plan import examples_of


class Factored(NamedTuple):
    """One side's Jacobian of one part of a leaf, as the factors of a product.

    Attributes:
      x: [n, r, t, a], without n where examples are coupled; integers [n, r, t, 1] are the
        places of the ones in one-hot rows, -1 for a row of zeros.
      g: [*labels of the side, r, t, b].
    """

    x: jax.Array
    g: jax.Array


class _Labelled(NamedTuple):
    labels: str
    values: jax.Array


def contract(problem: KernelProblem, way: str, left: Any, right: Any) -> jax.Array:
    """The part of the kernel of two `Factored`, or of two Jacobians [*labels, *leaf.shape].

    Args:
      problem: gives the layout, the precision and whether examples are coupled.
      way: as the plan has it.
      left: the side of x1.
      right: the side of x2; the same object where both sides are one.

    Returns:
      The part, in the axes of the layout.
    """
    return _WAYS[way](problem, left, right).values


def _transposed(problem: KernelProblem, left: jax.Array, right: jax.Array) -> _Labelled:
    layout = problem.layout
    return _product(problem, layout.out, _flat(layout.left, left), _flat(layout.right, right))


def _jacobian(problem: KernelProblem, left: Factored, right: Factored) -> _Labelled:
    layout, (n, m) = problem.layout, examples_of(problem)

    def form(labels: str, example: str, side: Factored) -> jax.Array:
        g, x = _labelled(f"{labels}rtb", side.g), _labelled(f"{example}rta", side.x)
        out = _present(f"{labels}rab", g, x)
        return jnp.einsum(f"{g.labels},{x.labels}->{out}", g.values, x.values)

    j1 = form(layout.left, n, left)
    return _transposed(problem, j1, j1 if right is left else form(layout.right, m, right))


def _half_gram(problem: KernelProblem, left: Factored, right: Factored) -> _Labelled:
    layout, (_, m) = problem.layout, examples_of(problem)
    g1, g2 = _labelled(f"{layout.left}rtb", left.g), _labelled(f"{layout.right}rsb", right.g)
    x = _gram_of_inputs(problem, left, right)
    z = _product(problem, _distinct(f"{layout.left}{m}rsb"), x, g1)
    return _product(problem, layout.out, z, g2)


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
    return _labelled(out, ((i == j) & (i >= 0)).astype(left.g.dtype))


_WAYS: dict[str, Callable[[KernelProblem, Any, Any], _Labelled]] = {
    "transposed": _transposed,
    "jacobian": _jacobian,
    "half_gram": _half_gram,
    "full_gram": _full_gram,
}


def _labelled(labels: str, values: jax.Array) -> _Labelled:
    """Leaves out inner labels of size 1."""
    pairs = list(zip(labels, values.shape, strict=True))
    kept = [(label, size) for label, size in pairs if label not in "rtsab" or size != 1]
    return _Labelled("".join(v for v, _ in kept), values.reshape([size for _, size in kept]))


def _product(problem: KernelProblem, out: str, left: _Labelled, right: _Labelled) -> _Labelled:
    """A product of the kernel itself: never below float32, unless asked for."""
    out = _present(out, left, right)
    values = jnp.einsum(
        f"{left.labels},{right.labels}->{out}",
        left.values,
        right.values,
        precision=problem.precision or "highest",
        preferred_element_type=jnp.promote_types(left.values.dtype, jnp.float32),
    )
    return _Labelled(out, values)


def _present(out: str, left: _Labelled, right: _Labelled) -> str:
    return "".join(label for label in out if label in left.labels + right.labels)


def _distinct(labels: Any) -> str:
    return "".join(dict.fromkeys(labels))


def _flat(labels: str, jacobian: jax.Array) -> _Labelled:
    """[*labels, *rest] to [*labels, w]."""
    rows, rest = jacobian.shape[: len(labels)], jacobian.shape[len(labels) :]
    return _Labelled(f"{labels}w", jacobian.reshape(*rows, math.prod(rest)))
