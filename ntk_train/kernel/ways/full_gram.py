"""The product of two Gram matrices, entry by entry.

    Theta[n,o,m,p] = sum_{r,t,s} (sum_a x[n,r,t,a] x[m,r,s,a]) (sum_b g[n,o,r,t,b] g[m,p,r,s,b])

For a dense layer (T = 1) it costs N^2 (A + O^2 B) in place of N^2 O^2 A B. (R. Novak et al., *Fast
Finite Width Neural Tangent Kernel*, ICML 2022, section 3.3 and table 2.)
"""

import dataclasses
from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp

from ntk_train.kernel.labelled import Labelled, distinct, labelled, product
from ntk_train.kernel.machine import Cost
from ntk_train.kernel.ways.inputs import gram_of_inputs
from ntk_train.kernel.ways.way import ProductRows, Setting, Way, of_one_dtype


@dataclasses.dataclass(frozen=True)
class FullGram(Way):
    """(x x^T over a) times (g g^T over b), summed over t, s.

    Attributes:
      one_hot: whether x is the places of ones.
    """

    name = "full_gram"
    one_hot: bool = False

    def cost(self, setting: Setting) -> Cost:
        """Of two Grams, and of their product to the kernel."""
        layout, of, (n, m) = setting.problem.layout, self.sizes.of, setting.problem.example_labels
        both = layout.left + layout.right
        kept = "".join(label for label in both if label in layout.out + n + m)
        gram = of(kept + "rts")
        operations = 2 * (of(n + m + "rtsa") + of(both + "rtsb") + gram)
        return Cost(operations, 2 * gram + 2 * of(layout.out))

    def product(self, setting: Setting) -> Hashable | None:
        """Small layers of equal sizes are one layer with more r."""
        sizes = self.sizes
        if not self._is_stacked(setting):
            return None
        return "full gram", self.one_hot, sizes.t, sizes.s, sizes.a, sizes.b

    def _is_stacked(self, setting: Setting) -> bool:
        """Whether copying the factors costs less than to start the products of its Gram."""
        machine, layout, sizes = setting.machine, setting.problem.layout, self.sizes
        left, right = setting.size(layout.left), setting.size(layout.right)
        width = sizes.of("rtb")
        if machine.is_accelerator:
            return left * width <= machine.stacked
        # Without any product of matrices what is spared is a few loops: 1.3 times as fast at a
        # width of 256, and slower at 1024.
        return left == right == sizes.t == sizes.s == 1 and width <= machine.stacked

    def together(self, members: Sequence[jax.Array]) -> list[jax.Array]:
        """Side by side along r."""
        if len(members) == 1:
            return list(members)
        return [jnp.concatenate(of_one_dtype(members), axis=-3)]

    def contract(self, setting: Setting, left: ProductRows, right: ProductRows) -> Labelled:
        """Both Grams, times each other.

        The Gram of the cotangents keeps the labels of the kernel and those of examples, which x has
        too. Over others, as the outputs of a trace, it sums at once.
        """
        problem, layout = setting.problem, setting.problem.layout
        n, m = problem.example_labels
        g1 = labelled(f"{layout.left}rtb", left.g[0])
        g2 = labelled(f"{layout.right}rsb", right.g[0])
        x = gram_of_inputs(setting, left, right)  # [n, m, r, t, s]
        kept = distinct(v for v in layout.left + layout.right if v in layout.out + n + m)
        g = product(f"{kept}rts", g1, g2, setting.stages.gram)  # [n, o, m, p, r, t, s]
        # Entry by entry: as one more matrix product this would be many tiny ones.
        sizes = zip(g.labels, g.values.shape, strict=True)
        shape = [size if label in x.labels else 1 for label, size in sizes]
        both = g.values * x.values.reshape(shape)
        return Labelled(layout.out, jnp.einsum(f"{g.labels}->{layout.out}", both))
