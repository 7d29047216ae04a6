"""Charts as SVG within a figure: curves over the steps, with their values at the last step.

The page's script, where it runs, shows the values at the step under the pointer in all charts at
once; without it the legend has those at the end.
"""

import base64
import dataclasses
import html
import json
from collections.abc import Sequence

import numpy as np

from ntk_train.monitor.pictures.canvas import BLUE, GREEN, PURPLE, VERMILION, number
from ntk_train.report.read import Series
from ntk_train.report.scale import Scale, scale_of

COLOURS = (BLUE, GREEN, PURPLE, VERMILION, "#c08a00", "#4098c8", "#5c5b57", "#7a5c2e")
_WIDTH, _HEIGHT = 480, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 468, 10, 198
_MOST_POINTS = 400


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """A curve of a chart.

    Attributes:
      name: in the legend.
      series: its points.
      dashed: for what is a bound, not a value.
      colour: None for the next of the chart's own.
      hollow: [k] which points are only bounds; None for none.
    """

    name: str
    series: Series
    dashed: bool = False
    colour: str | None = None
    hollow: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Chart:
    """What is drawn together.

    Attributes:
      title: the first line.
      note: what it means, in a few words.
      lines: the curves.
      log: as in `scale_of`.
      zero: as in `scale_of`.
      percent: whether values are parts of 1.
      marks: values with a line across, and its name.
      behind: a PNG between two values of a logarithmic axis, that lies behind the curves.
    """

    title: str
    note: str
    lines: tuple[Line, ...]
    log: bool | None = None
    zero: bool = False
    percent: bool = False
    marks: tuple[tuple[float, str], ...] = ()
    behind: tuple[bytes, float, float, int, int] | None = None


def chart_html(chart: Chart, steps: tuple[int, int]) -> str:
    """The figure; an empty text for a chart without a finite point.

    Args:
      chart: what to draw.
      steps: the range of the axis of steps, the same for all charts of a page.
    """
    lines = [
        dataclasses.replace(line, colour=line.colour or colour)
        for line, colour in zip(chart.lines, COLOURS, strict=False)
        if line.series.finite().steps.size
    ]
    if not lines:
        return ""
    x = Scale(steps[0], max(steps[1], steps[0] + 1), _LEFT, _RIGHT)
    values = [line.series.values for line in lines]
    values += [np.array([value]) for value, _ in chart.marks]
    if chart.behind is not None:
        values.append(np.array(chart.behind[1:3]))
    y = scale_of(np.concatenate(values), _BOTTOM, _TOP, chart.log, chart.zero)
    parts = [_grid(x, y, chart.percent), _behind(chart, x, y)]
    parts += [_mark(value, text, y) for value, text in chart.marks]
    parts += [_curve(line, x, y) for line in lines]
    label = html.escape(f"{chart.title}, over the steps")
    cursor = f'<line class="at" y1="{_TOP}" y2="{_BOTTOM}"/><text class="at" y="{_TOP - 1}"/>'
    svg = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}" '
        f'data-low="{x.low}" data-high="{x.high}" data-left="{_LEFT}" data-right="{_RIGHT}">'
        f"{''.join(parts)}{cursor}</svg>"
    )
    scale = "logarithmic" if y.log else ""
    return (
        f'<figure class="chart"><figcaption><h3>{html.escape(chart.title)}</h3>'
        f'<p>{html.escape(chart.note)}<span class="scale">{scale}</span></p></figcaption>'
        f"{_legend(lines, chart.percent, y.log)}{svg}{_data(lines, chart.percent)}</figure>"
    )


def _grid(x: Scale, y: Scale, percent: bool) -> str:
    parts = []
    for tick in y.ticks():
        at = float(y(np.array(tick)))
        text = shown(tick, percent)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 7}" y="{at + 4:.1f}">{text}</text>')
    for tick in x.ticks():
        at = float(x(np.array(tick)))
        if tick == int(tick):
            parts.append(f'<text class="x" x="{at:.1f}" y="{_BOTTOM + 17}">{int(tick):,}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_RIGHT}" y1="{_BOTTOM}" y2="{_BOTTOM}"/>')
    parts.append(f'<text class="x name" x="{_RIGHT}" y="{_BOTTOM + 30}">step</text>')
    return "".join(parts)


def _behind(chart: Chart, x: Scale, y: Scale) -> str:
    if chart.behind is None:
        return ""
    png, low, high, first, last = chart.behind
    left, right = x(np.array([first, last]))
    bottom, top = y(np.array([low, high]))
    return (
        f'<image href="{data_uri(png)}" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{bottom - top:.1f}" preserveAspectRatio="none" class="behind"/>'
    )


def _mark(value: float, text: str, y: Scale) -> str:
    at = float(y(np.array(value)))
    return (
        f'<line class="mark" x1="{_LEFT}" x2="{_RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text class="mark" x="{_LEFT + 6}" y="{at - 5:.1f}">{html.escape(text)}</text>'
    )


def _curve(line: Line, x: Scale, y: Scale) -> str:
    """The points in order, broken where a value has no place."""
    series, hollow, colour = thinned(line.series), line.hollow, line.colour
    places = np.stack([x(series.steps), y(series.values)], axis=1)
    drawn = np.isfinite(places).all(axis=1)
    path, pen = [], "M"
    for (px, py), yes in zip(places, drawn, strict=True):
        if yes:
            path.append(f"{pen}{px:.1f} {py:.1f}")
        pen = "L" if yes else "M"
    dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
    parts = [f'<path d="{"".join(path)}" stroke="{colour}"{dashes}/>']
    if drawn.sum() <= 40 and not line.dashed:
        marked = np.isin(series.steps, line.series.steps[hollow]) if hollow is not None else None
        for i in np.flatnonzero(drawn):
            fill = "var(--paper)" if marked is not None and marked[i] else colour
            cx, cy = places[i]
            parts.append(
                f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="2.6" fill="{fill}" stroke="{colour}"/>'
            )
    return f"<g>{''.join(parts)}</g>"


def _legend(lines: Sequence[Line], percent: bool, log: bool) -> str:
    items = []
    for line in lines:
        series = line.series.finite()
        lost = int(np.sum(series.values <= 0)) if log else 0
        said = f' <i title="a logarithmic axis has no place for them">({lost} ≤ 0)</i>'
        value = _texts(line, percent)[-1]
        style = "dashed" if line.dashed else "solid"
        items.append(
            f'<li><span class="key" style="border-top:2.5px {style} {line.colour}"></span>'
            f"{html.escape(line.name)}{said if lost else ''} <b>{value}</b></li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _data(lines: Sequence[Line], percent: bool) -> str:
    """The points for the script, in the order of the legend."""
    curves = []
    for line in lines:
        steps = thinned(line.series.finite()).steps.tolist()
        curves.append({"steps": steps, "texts": _texts(line, percent)})
    return f'<script type="application/json">{json.dumps(curves, ensure_ascii=False)}</script>'


def _texts(line: Line, percent: bool) -> list[str]:
    """The finite values of the points that are drawn, bounds with their sign."""
    series = thinned(line.series.finite())
    bounds = line.series.steps[line.hollow] if line.hollow is not None else []
    signs = np.where(np.isin(series.steps, bounds), "≥ ", "")
    return [sign + shown(value, percent) for sign, value in zip(signs, series.values, strict=True)]


def thinned(series: Series, most: int = _MOST_POINTS) -> Series:
    """At most so many points and the last: every k-th."""
    every = -(-len(series.steps) // most)
    keep = np.arange(len(series.steps)) % max(every, 1) == 0
    keep[-1:] = True
    return Series(series.steps[keep], series.values[keep])


def shown(value: float, percent: bool) -> str:
    """A value as text."""
    return f"{100 * value:.3g} %" if percent else number(value).replace("-", "\N{MINUS SIGN}")


def data_uri(png: bytes) -> str:
    """A PNG file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
