"""Jacobians that are formed: one product of J with J.

    J[n,o,r,a,b] = sum_t g[n,o,r,t,b] x[n,r,t,a]        Theta[n,o,m,p] = sum_k J[n,o,k] J[m,p,k]

For a convolution with many positions the Jacobian is smaller than any Gram. (R. Novak et al., *Fast
Finite Width Neural Tangent Kernel*, ICML 2022, section 3.1.)
"""

import dataclasses
from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._jax import after
from ntk_train.kernel.labelled import Labelled, flat, product, side_by_side
from ntk_train.kernel.machine import Cost
from ntk_train.kernel.ways.way import (
    Cotangents,
    ProductRows,
    Setting,
    Uses,
    Way,
    along_positions,
    is_small,
    of_one_dtype,
    rows_of_outputs,
)
from ntk_train.rules.arithmetic import Arithmetic, dot_general


class Formed(Way):
    """Of any Jacobian that is there as rows of numbers; small ones are one product, side by side.

    One product of many narrow Jacobians reads and writes the kernel once.
    """

    def product(self, setting: Setting) -> Hashable | None:
        """Small Jacobians together, each large one alone."""
        return "formed" if is_small(setting, self.kept_numbers) else None

    def of_example(self, uses: Uses) -> list[jax.Array]:  # noqa: ARG002
        """Nothing but the rows."""
        return []

    def together(self, members: Sequence[jax.Array]) -> list[jax.Array]:
        """Of one dtype, and side by side only where they are multiplied."""
        return of_one_dtype(members) if members else []

    def contract(self, setting: Setting, left: ProductRows, right: ProductRows) -> Labelled:
        """J J^T."""
        layout = setting.problem.layout
        j1 = side_by_side([flat(layout.left, j) for j in left.g])
        j2 = side_by_side([flat(layout.right, j) for j in right.g])
        return product(layout.out, j1, j2, setting.stages.gram).with_ones(layout.out)


@dataclasses.dataclass(frozen=True)
class Jacobian(Formed):
    """The Jacobian of a weight, formed of its factors.

    Attributes:
      pieces: in how many parts of its inputs' features the patches are made.
    """

    name = "jacobian"
    pieces: int = 1

    def cost(self, setting: Setting) -> Cost:
        """To form J on both sides, and one product."""
        layout, of = setting.problem.layout, self.sizes.of
        form = of(layout.left + "rtab")
        if setting.problem.x2 is not None:
            form += of(layout.right + "rsab")
        formed = of(layout.left + "rab") + of(layout.right + "rab")
        kernel = 0 if is_small(setting, of("rab")) else 2 * of(layout.out)
        operations = 2 * (form + of(layout.left + layout.right + "rab"))
        return Cost(operations, 2 * formed + kernel)

    @property
    def kept_numbers(self) -> int:
        """Entries of the weight."""
        return self.sizes.of("rab")

    def of_outputs(self, uses: Uses, cotangents: Cotangents) -> jax.Array:
        """J[o,k]."""
        # Patches wait for the cotangents: those of all layers at once take much memory.
        data, g = lax.optimization_barrier((uses.data, cotangents.at_sites))
        uses = uses._replace(data=data)
        formed: list[jax.Array] = []
        for piece in range(self.pieces) if self.pieces > 1 else [None]:
            if formed:
                uses = uses._replace(data=[after(d, formed[-1]) for d in uses.data])
            formed.append(_formed(along_positions(g), uses.x(piece), uses.arithmetic))
        rows = formed[0] if len(formed) == 1 else jnp.concatenate(formed, axis=-1)
        return rows_of_outputs(rows)


def _formed(g: jax.Array, x: jax.Array, arithmetic: Arithmetic) -> jax.Array:
    """J[o,r,b,a] = sum_t g[o,r,t,b] x[r,t,a], for one r as a plain product, which is faster."""
    o, r, t, b = g.shape
    if r == 1:
        g = g[:, 0].transpose(1, 0, 2).reshape(t, o * b)
        rows = dot_general(g, x[0], (((0,), (0,)), ((), ())), arithmetic)
        return rows.reshape(o, b, x.shape[-1])
    rows = dot_general(g, x, (((2,), (1,)), ((1,), (0,))), arithmetic)
    return rows.swapaxes(0, 1)
