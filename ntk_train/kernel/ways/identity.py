"""The last layer, or its bias, whose cotangents are one-hot.

    Theta[n,o,m,p] = sum_a x[n,a] x[m,a]   where o is p, and 0 elsewhere

It is taken under the conditions of `_is_output` in planning.py, for a weight, and of a linear
program's `output_terms`, for a bias.
"""

import dataclasses
from collections.abc import Hashable

import jax
import jax.numpy as jnp

from ntk_train.kernel.labelled import Labelled
from ntk_train.kernel.machine import Cost
from ntk_train.kernel.ways.inputs import gram_of_inputs
from ntk_train.kernel.ways.way import Cotangents, ProductRows, Setting, Uses, Way


@dataclasses.dataclass(frozen=True)
class Identity(Way):
    """x x^T over a, on the diagonal of the outputs; of a bias x is 1."""

    name = "identity"

    def cost(self, setting: Setting) -> Cost:
        """Of a Gram, and of the kernel that it is added to."""
        n, m = setting.problem.example_labels
        return Cost(2 * self.sizes.of(n + m + "a"), 2 * self.sizes.of(setting.problem.layout.out))

    def product(self, setting: Setting) -> Hashable | None:  # noqa: ARG002
        """Each alone."""
        return None

    @property
    def kept_numbers(self) -> int:
        """As if the cotangents were kept, which they are not: the rows of a block have them."""
        return self.row_numbers

    def of_outputs(self, uses: Uses, cotangents: Cotangents) -> jax.Array:  # noqa: ARG002
        """Nothing: g is one-hot."""
        return jnp.empty((cotangents.outputs, 0))

    def contract(self, setting: Setting, left: ProductRows, right: ProductRows) -> Labelled:
        """X[n,m] (o == p)."""
        problem, layout = setting.problem, setting.problem.layout
        x = gram_of_inputs(setting, left, right)
        first = 1 if problem.batched else 0
        factors, labels = [x.values], [x.labels]
        for o, p in zip(layout.left[first:], layout.right[first:], strict=True):
            size = setting.labels[o]
            if o != p:
                factors.append(jnp.eye(size, dtype=x.values.dtype))
                labels.append(o + p)
            elif o in layout.out:
                factors.append(jnp.ones(size, x.values.dtype))
                labels.append(o)
            else:  # a trace of the identity, which is not formed
                factors[0] = size * factors[0]
        return Labelled(layout.out, jnp.einsum(f"{','.join(labels)}->{layout.out}", *factors))
