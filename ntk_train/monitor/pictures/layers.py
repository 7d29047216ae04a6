"""What each layer makes of the kernel: its share of the trace, and its largest eigenvalue."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8

from ntk_train.monitor.pictures.canvas import (
    BLUE,
    INK,
    MUTED,
    VERMILION,
    label,
    log_axis,
    new_canvas,
    shortened,
)
from ntk_train.spectrum.layers import LayerDiagnostics

_LETTERS = 22
_NAMED = 30  # layers whose names fit at the largest height


def layers_picture(
    layers: Mapping[str, LayerDiagnostics], title: str
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws bars of the trace's shares, and dots of the largest eigenvalues on a log axis.

    Args:
      layers: their numbers, in the order of the network.
      title: the first line.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    names, place = list(layers), np.arange(len(layers))
    share = np.array([layers[name].trace_share for name in names], dtype=np.float64)
    largest = np.array([layers[name].lambda_max for name in names], dtype=np.float64)
    height = float(np.clip(0.9 + 0.2 * len(names), 2.4, 5.2))
    canvas = new_canvas(4.8, height)
    top = np.nanargmax(share) if np.isfinite(share).any() else None
    said = "no share: the trace is 0"
    if top is not None:
        said = f"{share[top]:.0%} of the trace in {shortened(names[top], 30)}"
    canvas.title(title, said)
    bottom, inner = 0.42 / height, 1 - 1.02 / height
    left = 0.05 + 0.0145 * min(max(map(len, names)), _LETTERS)
    width = (0.95 - left) / 2
    bars = canvas.axes((left, bottom, width - 0.02, inner))
    dots = canvas.axes((left + width + 0.02, bottom, width - 0.02, inner))
    bars.barh(place, np.nan_to_num(share), color=BLUE, height=0.7)
    bars.set_xlim(0, max(1e-3, np.nan_to_num(share).max()) * 1.02)
    bars.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    bars.xaxis.get_major_locator().set_params(nbins=4)
    every = -(-len(names) // _NAMED)
    for axes in (bars, dots):
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_yticks(place[::every], [])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
    shown = [shortened(name, _LETTERS) for name in names[::every]]
    bars.set_yticks(place[::every], shown, color=INK, size=8 if len(names) <= 15 else 7)
    positive = np.isfinite(largest) & (largest > 0)
    if positive.any():
        log_axis(dots, "x", largest[positive].min(), largest[positive].max())
        dots.plot(largest[positive], place[positive], "o", color=VERMILION, markersize=4)
        dots.hlines(place, *dots.get_xlim(), color=MUTED, linewidth=0.3, alpha=0.5)
    label(bars, "share of the trace", "")
    label(dots, "largest eigenvalue", "")
    return canvas.draw()
