"""Pictures of the eigenvalues: over their rank with the noise floor, and as a histogram."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ntk_train.monitor.pictures.canvas import (
    BLUE,
    GREEN,
    MUTED,
    VERMILION,
    Canvas,
    label,
    log_axis,
    new_canvas,
    number,
)
from ntk_train.spectrum import Spectrum

_BOX = (0.15, 0.15, 0.81, 0.66)
_FLOOR_WITHIN = 2.0  # decades below the smallest eigenvalue, further down it is not shown


def spectrum_picture(
    spectrum: Spectrum, title: str, values: Mapping[str, float] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws all eigenvalues over their rank on logarithmic axes, with the noise floor.

    Eigenvalues at or below the floor are hollow: they are rounding noise, drawn by magnitude.

    Args:
      spectrum: the eigenvalues.
      title: the first line.
      values: the numbers of `Diagnostics.values`; from those of the power law its fit is drawn.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    canvas = new_canvas()
    canvas.title(title, _summary(spectrum))
    eigenvalues = spectrum.eigenvalues
    rank, size = np.arange(1, len(eigenvalues) + 1), np.abs(eigenvalues)
    drawn = np.isfinite(size) & (size > 0)
    if not drawn.any():
        return _nothing(canvas, "no eigenvalue other than 0")
    axes = canvas.axes(_BOX)
    signal, noise = drawn & (eigenvalues > spectrum.noise_floor), drawn.copy()
    noise &= ~signal
    marker = 4.0 if len(rank) <= 100 else 2.5
    axes.plot(rank[signal], size[signal], "-", color=BLUE, linewidth=0.8, alpha=0.6)
    axes.plot(rank[signal], size[signal], "o", color=BLUE, markersize=marker, markeredgewidth=0)
    axes.plot(rank[noise], size[noise], "o", color=BLUE, markersize=marker, fillstyle="none")
    floor = spectrum.noise_floor
    shown = np.append(size[drawn], floor) if floor > 0 else size[drawn]
    log_axis(axes, "x", 1.0, max(2.0, len(rank)))
    log_axis(axes, "y", shown.min(), shown.max())
    label(axes, "rank", "eigenvalue")
    if floor > 0:
        _draw_floor(axes, floor)
    _draw_fit(axes, spectrum, values or {})
    return canvas.draw()


def eigenvalue_histogram(
    spectrum: Spectrum, title: str, bins: int = 30
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws how many eigenvalues there are of each order of magnitude.

    Those at or below the noise floor are grey, by magnitude; zeros are counted in the second line.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    canvas = new_canvas()
    eigenvalues, floor = spectrum.eigenvalues, spectrum.noise_floor
    size = np.abs(eigenvalues)
    drawn = np.isfinite(size) & (size > 0)
    below = int(np.sum(~(eigenvalues > floor)))
    said = f"{len(size)} eigenvalues, {below} of them not above the noise floor"
    canvas.title(title, said if below else f"{len(size)} eigenvalues")
    if not drawn.any():
        return _nothing(canvas, "no eigenvalue other than 0")
    axes = canvas.axes(_BOX)
    logs = np.log10(size)
    low, high = logs[drawn].min(), logs[drawn].max()
    near = floor > 0 and np.log10(floor) > low - _FLOOR_WITHIN
    if near:
        low = min(low, np.log10(floor))
    edges = np.linspace(low, max(high, low + 0.2), bins + 1)
    signal = drawn & (eigenvalues > floor)
    heights = [logs[signal], logs[drawn & ~signal]]
    powers = [10.0**part for part in heights]
    axes.hist(powers, 10.0**edges, stacked=True, color=[BLUE, "#b9b8b2"], edgecolor="white", lw=0.4)
    log_axis(axes, "x", 10.0 ** edges[0], 10.0 ** edges[-1])
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=False, axis="x")
    if near:
        axes.axvline(floor, color=VERMILION, linewidth=1, linestyle="--")
        right = np.log10(floor) > (edges[0] + edges[-1]) / 2
        axes.annotate(
            "noise floor",
            (floor, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-3 if right else 3, -11),
            textcoords="offset points",
            ha="right" if right else "left",
            color=VERMILION,
            size=8,
        )
    label(axes, "eigenvalue", "how many")
    return canvas.draw()


def _summary(spectrum: Spectrum) -> str:
    if np.isnan(spectrum.condition_number):
        return "no condition number: the kernel has no positive eigenvalue"
    bound = "≥ " if spectrum.condition_is_lower_bound else ""
    return (
        f"condition number {bound}{number(spectrum.condition_number)},  "
        f"effective rank {spectrum.effective_rank:.3g} of {len(spectrum.eigenvalues)}"
    )


def _nothing(canvas: Canvas, text: str) -> UInt8[np.ndarray, "height width 3"]:
    canvas.figure.text(0.5, 0.45, text, color=MUTED, size=10, ha="center")
    return canvas.draw()


def _draw_floor(axes: Any, floor: float) -> None:
    axes.axhline(floor, color=VERMILION, linewidth=1, linestyle="--")
    axes.axhspan(axes.get_ylim()[0], floor, color=VERMILION, alpha=0.07, linewidth=0)
    axes.annotate(
        f"noise floor {number(floor)}",
        (0.01, floor),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        color=VERMILION,
        size=8,
    )


def _draw_fit(axes: Any, spectrum: Spectrum, values: Mapping[str, float]) -> None:
    """Draws c rank^(-alpha) over the ranks of the fit, c from the means of both logarithms."""
    exponent = values.get("power_law_exponent", np.nan)
    if not np.isfinite(exponent):
        return
    first, last = (int(values[f"power_law_{end}"]) for end in ("first", "last"))
    x = np.log(np.arange(first, last + 1))
    y = np.log(spectrum.eigenvalues[first - 1 : last])
    ends = x[[0, -1]]
    line = np.exp(np.mean(y) - exponent * (ends - np.mean(x)))
    axes.plot(np.exp(ends), line, color=GREEN, linewidth=1.4)
    r_squared = values.get("power_law_r_squared", np.nan)
    axes.annotate(
        f"rank^(-{exponent:.2f}),  R² {r_squared:.2f}",
        (0.98, 0.95),
        xycoords="axes fraction",
        ha="right",
        va="top",
        color=GREEN,
        size=8,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )
