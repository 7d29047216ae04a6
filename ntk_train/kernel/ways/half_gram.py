"""The Gram matrix of the inputs, then two products with the cotangents.

    Z[n,o,m,r,s,b] = sum_t (sum_a x[n,r,t,a] x[m,r,s,a]) g[n,o,r,t,b]
    Theta[n,o,m,p] = sum_{r,s,b} Z[n,o,m,r,s,b] g[m,p,r,s,b]

(R. Novak et al., *Fast Finite Width Neural Tangent Kernel*, ICML 2022, section 3.3 and table 2, has
the other two orders of the products.)
"""

import dataclasses
import math
from collections.abc import Hashable

import jax.numpy as jnp

from ntk_train._jax import after
from ntk_train.kernel.labelled import Labelled, distinct, flat, labelled, product, side_by_side
from ntk_train.kernel.machine import Cost
from ntk_train.kernel.ways.inputs import gram_of_inputs
from ntk_train.kernel.ways.way import ProductRows, Setting, Way, is_small
from ntk_train.rules.arithmetic import dot_general


@dataclasses.dataclass(frozen=True)
class HalfGram(Way):
    """X = x x^T over a, Z = X g over t, then one product of Z with g."""

    name = "half_gram"

    def cost(self, setting: Setting) -> Cost:
        """Of a Gram and two products."""
        layout, of, (n, m) = setting.problem.layout, self.sizes.of, setting.problem.example_labels
        gram, z = of(n + m + "rtsa"), of(layout.left + m + "rtsb")
        kernel = 0 if is_small(setting, of("rsb")) else 2 * of(layout.out)
        operations = 2 * (gram + z + of(layout.left + layout.right + "rsb"))
        copied = of(layout.left + m + "rsb")
        if self._is_in_order(setting):  # the Grams for each output, and Z in the pieces of its sum
            copied += of(layout.left + m + "ts") + of(layout.left + m + "rsb")
        return Cost(operations, 2 * copied + kernel)

    def product(self, setting: Setting) -> Hashable | None:
        """The last products of small layers are one, of those whose Z has its labels alike."""
        if not is_small(setting, self.sizes.of("rsb")):
            return None
        return "half gram", self._is_in_order(setting)

    def _is_in_order(self, setting: Setting) -> bool:
        """Whether Z is made with its labels in the order that the last product needs."""
        (n, m), sizes = setting.problem.example_labels, self.sizes
        is_one_matrix = sizes.r == 1 < sizes.s and 1 < sizes.t <= sizes.b
        return setting.machine.is_accelerator and n != m and is_one_matrix

    def contract(self, setting: Setting, left: ProductRows, right: ProductRows) -> Labelled:
        """Z of all members with their g, in one product.

        `with_ones` puts back the label m of one example where `_factors` left it out.
        """
        layout = setting.problem.layout
        factors = _factors_in_order if self._is_in_order(setting) else _factors
        sides = [
            factors(setting, ProductRows([x1], [g1]), ProductRows([x2], [g2]))
            for x1, g1, x2, g2 in zip(left.x, left.g, right.x, right.g, strict=True)
        ]
        z, g = map(side_by_side, zip(*sides, strict=True))
        return product(layout.out, z, g, setting.stages.gram).with_ones(layout.out)


def _factors(setting: Setting, left: ProductRows, right: ProductRows) -> tuple[Labelled, Labelled]:
    """Z[n,o,m,(r,s,b)] and g[m,p,(r,s,b)], without m if that is one.

    Of one example of x2 and few positions Z comes with its labels in the order that the product
    needs, from a Gram that is the same for all outputs: two to three times as fast on a CPU.
    """
    layout, (n, m) = setting.problem.layout, setting.problem.example_labels
    x, g1 = gram_of_inputs(setting, left, right), labelled(f"{layout.left}rtb", left.g[0])
    g = right.g[0]  # [m, p, r, s, b]
    g2 = Labelled(layout.right, g)
    if not setting.machine.is_accelerator and m and m != n and g.shape[0] == 1:
        x, g2 = x.without(m), g2.without(m)
        if {"t", "s"} <= set(x.labels) and g.shape[-2] <= g.shape[-1]:
            # Or the Grams of all layers would wait for their cotangents.
            x = x._replace(values=after(x.values, g1.values)).repeated(g1, layout.left)
        m = ""
    kept = distinct(f"{m}{layout.left}")
    z = product(f"{kept}rsb", x, g1, setting.stages.gram)
    return flat(kept, z.values), flat(g2.labels, g2.values)


def _factors_in_order(
    setting: Setting, left: ProductRows, right: ProductRows
) -> tuple[Labelled, Labelled]:
    """Z[n,o,m,(s,b)] for one r, with its labels in the order that the product needs, and g.

    The Gram is repeated for each output, which is fewer numbers than Z has: a product of Gram and
    cotangents as they are has the outputs on its other side, and Z would be copied.
    """
    layout, (n, m) = setting.problem.layout, setting.problem.example_labels
    x, g = gram_of_inputs(setting, left, right), left.g[0].squeeze(-3)
    grams = jnp.einsum(f"{x.labels}->{n}{m}st", x.values)
    rows = g.shape[:-2]
    *examples, s, t = grams.shape  # [n, m, s, t]
    pairs = math.prod([*examples[1:], s])
    grams = grams.reshape(*examples[:1], *(1 for _ in rows[1:]), pairs, t)
    grams = jnp.broadcast_to(grams, (*rows, *grams.shape[-2:]))  # [n, o, (m, s), t]
    batch, last = tuple(range(len(rows))), len(rows)
    z = dot_general(
        grams,
        g,
        (((last + 1,), (last,)), (batch, batch)),
        setting.stages.gram,
        jnp.promote_types(g.dtype, jnp.float32),
    )  # [n, o, (m, s), b]
    in_order = Labelled(f"{layout.left}{m}k", z.reshape(*rows, *examples[1:], s * z.shape[-1]))
    return in_order, flat(layout.right, right.g[0])
