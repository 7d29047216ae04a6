"""The parts of a kernel by layer: how much of it each layer makes, and what its part is like.

    Theta = sum_l Theta_l,    share_l = trace(Theta_l) / trace(Theta)

Takes the dict of kernels that `ntk_train.ntk(..., per_layer=True)` returns. Traces add up over
layers and shares to 1; lambda_max does not (Weyl: that of the sum is at most the sum of theirs).

>>> import numpy as np
>>> parts = layer_diagnostics({"Dense_0": np.diag([3.0, 3.0]), "Dense_1": np.diag([1.0, 1.0])})
>>> parts["Dense_0"].trace_share, parts["Dense_1"].lambda_max
(0.75, 1.0)
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ntk_train._arguments import check_type
from ntk_train.errors import KernelInputError
from ntk_train.spectrum.alignment import (
    debiased_kernel_target_alignment,
    kernel_target_alignment,
)
from ntk_train.spectrum.eigen import checked_matrix


@dataclasses.dataclass(frozen=True)
class LayerDiagnostics:
    """One layer's part of a kernel.

    Attributes:
      trace_share: its share of the trace of the whole, from 0 to 1; NaN if that is 0.
      lambda_max: its own largest eigenvalue.
      alignment: `kernel_target_alignment` of its part, None without labels.
      centred_alignment: the same, centred.
      debiased_alignment: `debiased_kernel_target_alignment` of its part.
    """

    trace_share: float
    lambda_max: float
    alignment: float | None = None
    centred_alignment: float | None = None
    debiased_alignment: float | None = None

    def scalars(self) -> dict[str, float]:
        """The numbers that there are, by name."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


def layer_diagnostics(
    kernels: Mapping[str, Any], labels: Any | None = None
) -> dict[str, LayerDiagnostics]:
    """What each layer contributes to a kernel.

    Args:
      kernels: [N, N] or [N, O, N, O] by layer, all of one shape; they add up to the whole.
      labels: as in `kernel_target_alignment`, or None.

    Raises:
      KernelInputError: there is no kernel, or they have different shapes, or come in no dict.
      DtypeError, NonFiniteKernelError: as `kernel_spectrum`.
    """
    expected = "the dict of kernels by layer that ntk_train.ntk(..., per_layer=True) returns"
    check_type("layers", kernels, Mapping, expected)
    matrices = {
        name: checked_matrix(kernel, f"layers[{name!r}]") for name, kernel in kernels.items()
    }
    shapes = {name: np.shape(kernel) for name, kernel in kernels.items()}
    if len(set(shapes.values())) != 1:
        msg = f"layers has shapes {shapes}; expected one or more kernels of one shape."
        raise KernelInputError(msg)
    traces = {name: float(np.trace(matrix)) for name, matrix in matrices.items()}
    total = math.fsum(traces.values())

    def alignments(name: str) -> dict[str, float]:
        if labels is None:
            return {}
        kernel = kernels[name]
        return {
            "alignment": kernel_target_alignment(kernel, labels),
            "centred_alignment": kernel_target_alignment(kernel, labels, centred=True),
            "debiased_alignment": debiased_kernel_target_alignment(kernel, labels),
        }

    return {
        name: LayerDiagnostics(
            trace_share=traces[name] / total if total else math.nan,
            lambda_max=float(np.linalg.eigvalsh(matrix)[-1]),
            **alignments(name),
        )
        for name, matrix in matrices.items()
    }
