"""All the pictures that a measurement allows."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from ntk_train.monitor.pictures.change import change_picture
from ntk_train.monitor.pictures.heatmap import kernel_picture
from ntk_train.monitor.pictures.layers import layers_picture
from ntk_train.monitor.pictures.spectrum import eigenvalue_histogram, spectrum_picture
from ntk_train.spectrum import Diagnostics


@runtime_checkable
class Pictured(Protocol):
    """What is drawn: a `Measurement`, say."""

    @property
    def step(self) -> int:
        """The step of the loop."""

    @property
    def kernel(self) -> np.ndarray:
        """[N, N] or [N, O, N, O]."""

    @property
    def diagnostics(self) -> Diagnostics:
        """Its numbers."""


def pictures_of(
    measurement: Pictured,
    labels: Any = None,
    history: Sequence[tuple[int, Mapping[str, float]]] = (),
) -> dict[str, UInt8[np.ndarray, "1 height width 3"]]:
    """Draws the spectrum, its histogram, the kernel, its change and its layers.

    Args:
      measurement: the kernel of a step and its numbers, those of layers too if there are some.
      labels: classes of the probe [N] or targets [N, O], which put the kernel in order.
      history: numbers of earlier steps, by the names of `Diagnostics.scalars`, for the curve of
        the change. Those of this measurement are added.

    Returns:
      By name without a prefix: "spectrum", "eigenvalues", "kernel", and where there is one,
      "change" and "layers".

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    step, found = measurement.step, measurement.diagnostics
    pictures = {
        "spectrum": spectrum_picture(found.spectrum, f"Spectrum, step {step}", found.values),
        "eigenvalues": eigenvalue_histogram(found.spectrum, f"Eigenvalues, step {step}"),
        "kernel": kernel_picture(measurement.kernel, f"Kernel, step {step}", labels),
    }
    past = [(earlier, numbers) for earlier, numbers in history if earlier != step]
    change = change_picture([*past, (step, found.values)], f"Change, to step {step}")
    if change is not None:
        pictures["change"] = change
    if found.layers:
        pictures["layers"] = layers_picture(found.layers, f"Layers, step {step}")
    return {name: picture[None] for name, picture in pictures.items()}
