"""The kernel itself, ordered by class and normalised by its diagonal.

C[n, m] = K[n, m] / sqrt(K[n, n] K[m, m]),   K the sum over equal outputs of a full kernel
"""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from ntk_train.monitor.pictures.canvas import INK, MUTED, PAPER, new_canvas

_MISSING = "#e69f00"  # NaN: no cosine exists where an example's own entry is 0
_NAMED = 20  # classes whose names fit beside the picture
_LINED = 50  # classes whose boundaries do not hide it
_WIDTH, _HEIGHT, _SIDE = 4.0, 4.0, 0.76


def kernel_picture(
    kernel: np.ndarray, title: str, labels: Any = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws the cosines between the gradients of the probe's examples.

    Args:
      kernel: [N, N], or [N, O, N, O], which is traced over equal outputs.
      title: the first line.
      labels: classes [N], by which examples are put in order, with lines between the classes;
        [N, C] one-hot targets count as classes, real targets [N] only order.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    cosines, traced = _cosines(np.asarray(kernel))
    order, starts, names = _order(labels, len(cosines))
    cosines = cosines[np.ix_(order, order)]
    canvas = new_canvas(_WIDTH, _HEIGHT)
    parts = ["cosine between examples"] + ["traced over outputs"] * traced
    parts += ["orange: none"] * (not np.isfinite(cosines).all())
    canvas.title(title, ", ".join(parts))
    bottom, height = 0.07, _SIDE * _WIDTH / _HEIGHT
    axes = canvas.figure.add_axes((0.1, bottom, _SIDE, height), facecolor=PAPER)
    low, map_name = _scale(cosines)
    shown = axes.imshow(
        np.ma.masked_invalid(cosines),
        cmap=_colours(map_name),
        vmin=low,
        vmax=1,
        interpolation="antialiased" if len(cosines) > 300 else "nearest",
    )
    axes.tick_params(length=0, colors=MUTED, labelsize=8 if len(names) <= 12 else 6.5)
    axes.set_xticks([])
    axes.set_yticks([])
    if names and len(names) <= _NAMED:
        ends = [*starts[1:], len(cosines)]
        centres = [(a + b - 1) / 2 for a, b in zip(starts, ends, strict=True)]
        axes.set_yticks(centres, names)
        axes.set_xticks(centres, names)
    for start in starts[1:] if len(starts) <= _LINED else ():
        axes.axhline(start - 0.5, color=INK, linewidth=0.7)
        axes.axvline(start - 0.5, color=INK, linewidth=0.7)
    beside = canvas.figure.add_axes((0.1 + _SIDE + 0.02, bottom, 0.025, height))
    bar = canvas.figure.colorbar(shown, cax=beside, format="%.2g", ticks=np.linspace(low, 1, 5))
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    return canvas.draw()


def _cosines(kernel: np.ndarray) -> tuple[np.ndarray, bool]:
    traced = kernel.ndim == 4
    kernel = np.einsum("nomo->nm", kernel) if traced else kernel
    kernel = kernel.astype(np.float64)
    diagonal = np.diagonal(kernel)
    with np.errstate(all="ignore"):
        scale = np.sqrt(np.where(diagonal > 0, diagonal, np.nan))
        return kernel / scale[:, None] / scale[None, :], traced


def _order(labels: Any, n: int) -> tuple[np.ndarray, list[int], list[str]]:
    """The order of the examples, where each class begins in it, and the names of the classes."""
    if labels is None:
        return np.arange(n), [0], []
    labels = np.asarray(labels)
    if labels.ndim == 2:
        labels = labels.argmax(axis=1) if labels.shape[1] > 1 else labels[:, 0]
    order = np.argsort(labels, kind="stable")
    values, starts = np.unique(labels[order], return_index=True)
    if len(values) == n > 2 or not np.array_equal(values, np.round(values)):
        return order, [0], []  # real targets, or no two examples of one class
    return order, starts.tolist(), [f"{value:.0f}" for value in values]


def _scale(cosines: np.ndarray) -> tuple[float, str]:
    """The least value shown, and the map: from white where all are positive, else two-sided."""
    finite = cosines[np.isfinite(cosines)]
    least = float(finite.min()) if finite.size else 0.0
    if least < -0.05:
        return -1.0, "RdBu_r"
    # Steps, so that pictures of one run rarely change their scale.
    return min(max(np.floor(least * 5) / 5, 0.0), 0.8), "Blues"


def _colours(name: str) -> Any:
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=_MISSING)
