"""Parameters that no rule factors: their Jacobian comes whole from the transposed program.

It is always right, and for biases and scales the best.
"""

import dataclasses

import jax

from ntk_train.kernel.machine import Cost
from ntk_train.kernel.ways.jacobian import Formed
from ntk_train.kernel.ways.way import Cotangents, Setting, Uses, rows_of_outputs


@dataclasses.dataclass(frozen=True)
class Transposed(Formed):
    """A Jacobian that is there as it is; the parameter's entries are its b."""

    name = "transposed"

    def cost(self, setting: Setting) -> Cost:
        """Of one product."""
        layout = setting.problem.layout
        return Cost(2 * self.sizes.of(layout.left + layout.right + "b"), 0)

    @property
    def kept_numbers(self) -> int:
        """Entries of the parameter."""
        return self.sizes.b

    @property
    def row_numbers(self) -> int:
        """Entries of the parameter."""
        return self.sizes.b

    @property
    def patch_numbers(self) -> int:
        """No factors."""
        return 0

    @property
    def cotangent_numbers(self) -> int:
        """No factors."""
        return 0

    @property
    def letters(self) -> tuple[str, str, str, str]:
        """None."""
        return "", "", "", ""

    def of_outputs(self, uses: Uses, cotangents: Cotangents) -> jax.Array:  # noqa: ARG002
        """J[o,k]."""
        assert cotangents.whole is not None
        return rows_of_outputs(cotangents.whole)
