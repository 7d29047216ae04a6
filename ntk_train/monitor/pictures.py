"""Pictures of a spectrum, as arrays that a metric writer takes. Needs matplotlib (`[plot]`)."""

import numpy as np
from jaxtyping import UInt8

from ntk_train.spectrum import Spectrum

_INK, _MUTED, _NOISE, _SERIES = "#1a1a19", "#6f6e69", "#c0392b", "#2a5d9f"


def spectrum_picture(spectrum: Spectrum, title: str) -> UInt8[np.ndarray, "height width 3"]:
    """Draws the eigenvalues over their rank on a logarithmic axis, with the noise floor.

    Eigenvalues at or below the floor are hollow: they are rounding noise, drawn by magnitude.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    # Figures made without pyplot hold no global state and need no display or main thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rank = np.arange(1, len(spectrum.eigenvalues) + 1)
    size = np.abs(spectrum.eigenvalues)
    signal = spectrum.eigenvalues > spectrum.noise_floor
    axes.plot(rank[signal], size[signal], "o-", color=_SERIES, markersize=3.5, linewidth=1)
    noise = ~signal & (size > 0)
    axes.plot(rank[noise], size[noise], "o", color=_SERIES, markersize=3.5, fillstyle="none")
    if spectrum.noise_floor > 0:
        axes.axhline(spectrum.noise_floor, color=_NOISE, linewidth=1, linestyle="--")
        axes.annotate(
            "noise floor",
            (0.01, spectrum.noise_floor),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            color=_NOISE,
            fontsize=8,
        )
    if np.any(size > 0):
        axes.set_yscale("log")
    bound = "≥ " if spectrum.condition_is_lower_bound else ""
    axes.set_title(
        f"{title}   condition number {bound}{spectrum.condition_number:.3g}, "
        f"effective rank {spectrum.effective_rank:.3g}",
        fontsize=10,
        color=_INK,
        loc="left",
    )
    axes.set_xlabel("rank of the eigenvalue", color=_MUTED)
    axes.set_ylabel("eigenvalue", color=_MUTED)
    axes.tick_params(colors=_MUTED, labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
