"""How far the kernel has moved since initialisation, over the steps of the run."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from ntk_train.monitor.pictures.canvas import BLUE, VERMILION, label, log_axis, new_canvas, number
from ntk_train.spectrum.quantities import quantity

_CURVES = {"relative_change": (BLUE, "o"), "kernel_distance": (VERMILION, "s")}


def change_picture(
    history: Sequence[tuple[int, Mapping[str, float]]], title: str
) -> UInt8[np.ndarray, "height width 3"] | None:
    """Draws `relative_change` and `kernel_distance` over the steps, on a logarithmic axis.

    Args:
      history: steps with their numbers, by the names of `Diagnostics.scalars`.
      title: the first line.

    Returns:
      The picture, or None where no step has a change other than 0.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    curves = {}
    for name in _CURVES:
        pairs = [(step, float(values.get(name, np.nan))) for step, values in history]
        pairs = [(step, value) for step, value in pairs if np.isfinite(value) and value > 0]
        if pairs:
            curves[name] = np.array(sorted(pairs), dtype=np.float64)
    if not curves:
        return None
    canvas = new_canvas()
    canvas.title(title)
    axes = canvas.axes((0.15, 0.15, 0.81, 0.66))
    steps = np.concatenate([curve[:, 0] for curve in curves.values()])
    values = np.concatenate([curve[:, 1] for curve in curves.values()])
    start = min(step for step, _ in history)
    axes.set_xlim(start, max(steps.max(), start + 1))
    log_axis(axes, "y", values.min(), values.max())
    for name, curve in curves.items():
        colour, marker = _CURVES[name]
        style = {"marker": marker, "markersize": 3, "clip_on": False}
        if len(curve) > 60:
            style = {}
        axes.plot(
            curve[:, 0],
            curve[:, 1],
            color=colour,
            linewidth=1.3,
            **style,
            label=f"{quantity(name).title} {number(curve[-1, 1])}",
        )
    canvas.figure.legend(
        loc="upper left",
        bbox_to_anchor=(0.015, 0.93),
        ncols=2,
        frameon=False,
        fontsize=8.5,
        labelcolor="linecolor",
    )
    label(axes, "step", "since the first kernel")
    return canvas.draw()
