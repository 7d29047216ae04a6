"""The paper that pictures are drawn on: size, type, colours, axes, and the way to an array."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import UInt8

INK, MUTED, GRID, PAPER = "#1a1a19", "#5c5b57", "#d9d8d3", "#ffffff"
# Okabe and Ito's colours that stand out on white.
BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#aa4a86"

_DPI = 150
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_RELATIVE_MARGIN = 0.06


@dataclasses.dataclass(frozen=True)
class Canvas:
    """A figure with its canvas; `new_canvas` makes it."""

    figure: Any
    agg: Any

    def draw(self) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels."""
        self.agg.draw()
        return np.asarray(self.agg.buffer_rgba())[..., :3].copy()

    def axes(self, box: tuple[float, float, float, float]) -> Any:
        """Axes in a box (left, bottom, width, height), in parts of the figure."""
        axes = self.figure.add_axes(box, facecolor=PAPER)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(MUTED)
        axes.tick_params(colors=MUTED, labelsize=8, width=0.6)
        axes.set_axisbelow(True)
        axes.grid(color=GRID, linewidth=0.5)
        return axes

    def title(self, title: str, subtitle: str = "") -> None:
        """A line in bold, and one of the numbers to read off, at the top left."""
        height = self.figure.get_figheight()
        self.figure.text(0.03, 1 - 0.1 / height, title, color=INK, size=10, weight="bold", va="top")
        self.figure.text(0.03, 1 - 0.3 / height, subtitle, color=MUTED, size=8.5, va="top")


def new_canvas(width: float = 4.8, height: float = 3.2) -> Canvas:
    """An empty figure of so many inches.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    # Figures made without pyplot hold no global state and need no display or main thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=PAPER)
    return Canvas(figure, FigureCanvasAgg(figure))


def label(axes: Any, x: str, y: str) -> None:
    """Names the two axes."""
    axes.set_xlabel(x, color=MUTED, size=8.5)
    axes.set_ylabel(y, color=MUTED, size=8.5)


def log_axis(axes: Any, which: str, low: float | int, high: float | int) -> None:
    """Makes the axis "x" or "y" logarithmic from low to high, with ticks that can be read.

    The labels are plain text: matplotlib's parser of formulas is shared by all threads.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    span = max(math.log10(high) - math.log10(low), 0.1)
    margin = 10 ** min(span * _RELATIVE_MARGIN, 10)
    axis = axes.xaxis if which == "x" else axes.yaxis
    getattr(axes, f"set_{which}scale")("log")
    floats = np.finfo(np.float64)
    limits = (max(low / margin, floats.tiny), min(high * margin, floats.max / 10))
    getattr(axes, f"set_{which}lim")(*limits)
    if span > 1.5:
        axis.set_major_locator(LogLocator(numticks=7))
    elif span > 0.3:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=7))
    else:
        axis.set_major_locator(MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_locator(NullLocator())  # they would show nothing, and take half of the time


def number(value: float | int) -> str:
    """A number for the eye: 0.05, 320, 10⁶, 2.5·10⁻⁷."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    mantissa = mantissa.rstrip("0").rstrip(".")
    return power if mantissa == "1" else f"{mantissa}·{power}"


def shortened(name: str, length: int) -> str:
    """A name of at most so many letters, cut in its middle."""
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[len(name) - (length - 1 - head) :]}"
