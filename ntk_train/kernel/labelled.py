"""Arrays whose axes have letters, and their products.

Labels of size 1 among r, t, s, a, b are left out of every product: with them XLA transposes what
would be plain matrices, four times slower in all on a fully connected network on a CPU.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ntk_train.rules.arithmetic import Arithmetic, dot_general

_INNER = "rtsab"  # no axis of the kernel


class Labelled(NamedTuple):
    """An array, and one letter for each of its axes.

    Attributes:
      labels: letters of the glossary, or of the layout's axes; k for several as one.
      values: the array.
    """

    labels: str
    values: jax.Array

    def without(self, label: str) -> "Labelled":
        """Leaves out a label of size 1, if it is there."""
        axis = self.labels.find(label)
        if axis < 0:
            return self
        return Labelled(self.labels.replace(label, ""), self.values.squeeze(axis))

    def with_ones(self, labels: str) -> "Labelled":
        """Puts back the labels that were left out for their size of 1."""
        shape = iter(self.values.shape)
        sizes = [next(shape) if label in self.labels else 1 for label in labels]
        return Labelled(labels, self.values.reshape(sizes))

    def repeated(self, like: "Labelled", labels: str) -> "Labelled":
        """With labels in front that it does not have, in their sizes in another array."""
        inner = "".join(label for label in self.labels if label not in labels)
        shapes = self.values.shape + like.values.shape
        size = dict(zip(self.labels + like.labels, shapes, strict=True))
        shape = [size[label] if label in self.labels else 1 for label in labels + inner]
        values = jnp.broadcast_to(self.values.reshape(shape), [size[v] for v in labels + inner])
        return Labelled(labels + inner, values)


def labelled(labels: str, values: jax.Array) -> Labelled:
    """Without the inner labels of size 1."""
    pairs = list(zip(labels, values.shape, strict=True))
    kept = [(label, size) for label, size in pairs if label not in _INNER or size != 1]
    return Labelled("".join(v for v, _ in kept), values.reshape([size for _, size in kept]))


def flat(labels: str, values: jax.Array) -> Labelled:
    """[*labels, *rest] to [*labels, k]."""
    rows, rest = values.shape[: len(labels)], values.shape[len(labels) :]
    return Labelled(f"{labels}k", values.reshape(*rows, math.prod(rest)))


def side_by_side(factors: Sequence[Labelled]) -> Labelled:
    """Arrays with the same labels as one, along the last of them."""
    values = [factor.values for factor in factors]
    whole = values[0] if len(values) == 1 else jnp.concatenate(values, axis=-1)
    return Labelled(factors[0].labels, whole)


def distinct(labels: Iterable[str]) -> str:
    """Each label once, in the order in which they come first."""
    return "".join(dict.fromkeys(labels))


def product(out: str, left: Labelled, right: Labelled, arithmetic: Arithmetic) -> Labelled:
    """A product of the kernel itself, summed over what is not in `out`.

    Args:
      out: the labels of the result; those that neither side has are left out.
      left: one side.
      right: the other.
      arithmetic: of the product.
    """
    out = "".join(label for label in out if label in left.labels + right.labels)
    dtype = jnp.promote_types(left.values.dtype, jnp.float32)
    inner = "".join(v for v in left.labels if v in right.labels)
    rows1, rows2 = left.labels.removesuffix(inner), right.labels.removesuffix(inner)
    if inner and out == rows1 + rows2 and not set(inner) & set(out):
        # Two plain matrices: of more axes XLA makes a transposed copy of the second on a CPU.
        i, j = _matrix(left, len(rows1)), _matrix(right, len(rows2))
        values = dot_general(i, j, (((1,), (1,)), ((), ())), arithmetic, dtype)
        shape = left.values.shape[: len(rows1)] + right.values.shape[: len(rows2)]
        return Labelled(out, values.reshape(shape))
    if arithmetic.longest is None or set(left.labels + right.labels) - set(out + inner):
        values = jnp.einsum(
            f"{left.labels},{right.labels}->{out}",
            left.values,
            right.values,
            precision=arithmetic.of(left.values, right.values),
            preferred_element_type=dtype,
        )
        return Labelled(out, values)
    shared, summed = ([v for v in inner if (v in out) == yes] for yes in (True, False))
    numbers = tuple(
        tuple(tuple(map(side.labels.index, labels)) for side in (left, right))
        for labels in (summed, shared)
    )
    values = dot_general(left.values, right.values, numbers, arithmetic, dtype)
    # The axes of such a product are those of both sides, of the left one and of the right one.
    order = [*shared, *(v for v in left.labels + right.labels if v not in inner)]
    return Labelled(out, values.transpose([order.index(label) for label in out]))


def _matrix(factor: Labelled, num_rows: int) -> jax.Array:
    """[*rows, *rest] to [rows, rest], also of no rows or columns."""
    shape = factor.values.shape
    return factor.values.reshape(math.prod(shape[:num_rows]), math.prod(shape[num_rows:]))
