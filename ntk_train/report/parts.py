"""The parts of the page that are no charts: key numbers, pictures, layers, tables, what failed."""

import html
import io
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from ntk_train.report.charts import data_uri, shown
from ntk_train.report.curves import layer_series
from ntk_train.report.read import Kernel, Run, Series, flat
from ntk_train.spectrum.quantities import CATALOGUE, quantity

_PICTURES = {
    "spectrum": "Spectrum",
    "eigenvalues": "Histogram of the eigenvalues",
    "kernel": "Kernel, by class",
    "change": "Change",
    "layers": "Layers",
}


_KEY_NUMBERS = (
    "condition_number",
    "lambda_max",
    "effective_rank",
    "relative_change",
    "kernel_target_alignment",
    "full_batch_learning_rate_ratio",
    "minibatch_learning_rate_ratio",
)


def key_numbers(kernel: Kernel) -> str:
    """The numbers at the last step, large; with what they were at the first."""
    tiles = []
    for name in _KEY_NUMBERS:
        text, series = quantity(name).title, kernel.numbers.get(name)
        if series is None or not series.finite().steps.size:
            continue
        finite = series.finite()
        bound = kernel.numbers.get("condition_is_lower_bound")
        is_bound = name == "condition_number" and bound is not None and bound.last > 0
        was = f"was {shown(finite.values[0], False)}" if len(finite.values) > 1 else ""
        value = ("≥ " if is_bound else "") + shown(finite.last, False)
        tiles.append(f"<div><dt>{text}</dt><dd>{value}<small>{was}</small></dd></div>")
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def contents(sections: str) -> str:
    """Links to the headings of the page that have an address.

    Args:
      sections: the page's HTML, from which its headings are taken.
    """
    found = re.findall(r'<h2(?: class="(\w+)")? id="([^"]+)">(.*?)</h2>', sections)
    items = "".join(
        f'<li class="{kind}"><a href="#{address}">{text}</a></li>' for kind, address, text in found
    )
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def pictures(kernel: Kernel, most: int, at: str) -> str:
    """The pictures of some steps, the first and the last among them, with one slider for all.

    Args:
      kernel: whose pictures.
      most: of how many steps.
      at: before the address of the section.
    """
    figures = []
    steps = _some(sorted(set().union(*kernel.images.values())), most)
    for name, frames in sorted(kernel.images.items(), key=_picture_order):
        # The latest stands first: without the script it is the one in sight.
        shown_steps = [step for step in steps if step in frames][::-1] or [max(frames)]
        title = html.escape(_PICTURES.get(name, name.replace("_", " ")))
        # Ours have their title within.
        caption = "" if name in _PICTURES else f"<figcaption><h3>{title}</h3></figcaption>"
        shots = "".join(
            f'<img alt="{title}, step {step}" data-step="{step}" '
            f'class="{"on" if step == shown_steps[0] else ""}" '
            f'src="{data_uri(smaller(frames[step]))}">'
            for step in shown_steps
        )
        figures.append(
            f'<figure class="pictures">{caption}'
            f'<div class="frames" tabindex="0">{shots}</div></figure>'
        )
    if not figures:
        return ""
    slider = (
        f'<label class="slider" data-steps="{" ".join(map(str, steps))}">step '
        f'<output>{steps[-1]:,}</output><input type="range" min="0" max="{len(steps) - 1}" '
        f'value="{len(steps) - 1}" step="1"></label>'
    )
    return (
        f'<section class="gallery"><header><h2 id="{at}-pictures">Pictures</h2>'
        f"{slider if len(steps) > 1 else ''}</header>"
        f'<div class="grid">{"".join(figures)}</div></section>'
    )


def _picture_order(item: tuple[str, Any]) -> tuple[int, str]:
    name, _ = item
    return (list(_PICTURES).index(name) if name in _PICTURES else len(_PICTURES), name)


def _some(steps: list[int], most: int) -> list[int]:
    places = np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int)
    return [steps[i] for i in dict.fromkeys(places.tolist())]


def smaller(png: bytes) -> bytes:
    """The picture in 256 colours, where pillow is installed and that is smaller."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        return png
    out = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    # Not the median cut, which gives up thin lines of a colour of their own.
    few = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(out, "PNG", optimize=True)
    return min(png, out.getvalue(), key=len)


def layers(kernel: Kernel, at: str) -> str:
    """A table of the layers at the last step, with bars of their shares of the trace.

    Args:
      kernel: whose layers.
      at: before the address of the section.
    """
    shares = layer_series(kernel, "trace_share")
    if not shares:
        return ""
    others = [entry for entry in CATALOGUE if entry.of_layer and entry.name != "trace_share"]
    columns = {entry.legend: layer_series(kernel, entry.name) for entry in others}
    columns = {head: column for head, column in columns.items() if column}
    most = max([np.nan_to_num(s.values).max() for s in shares.values()]) or 1.0
    rows = []
    for name, series in shares.items():
        first, last = (float(np.nan_to_num(series.values[i])) / most * 100 for i in (0, -1))
        bar = (
            f'<span class="bar"><span style="width:{last:.1f}%"></span>'
            f'<i style="left:{first:.1f}%"></i></span>'
        )
        cells = "".join(
            f"<td>{shown(column[name].last, False) if name in column else '-'}</td>"
            for column in columns.values()
        )
        share = shown(series.last, True)
        rows.append(f"<tr><th>{html.escape(name)}</th><td>{bar}</td><td>{share}</td>{cells}</tr>")
    heads = "".join(f"<th>{head}</th>" for head in columns)
    step = max(series.steps[-1] for series in shares.values())
    return (
        f'<section><h2 id="{at}-layers">Layers at step {step:,}</h2>'
        '<p class="note">Share of the trace; the mark is where it was at first.</p>'
        '<div class="wide" tabindex="0"><table class="layers"><thead><tr>'
        f'<th>layer</th><th class="bars">share of the trace</th><th></th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def convention(kernel: Kernel) -> str:
    """The convention, which is a table in Markdown, as one in HTML."""
    text = kernel.texts.get("convention")
    if text is None:
        return (
            '<p class="note">No convention was logged for this kernel: its numbers compare with '
            "no others.</p>"
        )
    rows = [[cell.strip() for cell in line.strip("| ").split("|", 1)] for line in text.splitlines()]
    body = [row for row in rows[1:] if len(row) == 2 and not re.fullmatch(r"[-:| ]*", row[1])]
    return table(body) if body else f"<pre>{html.escape(text)}</pre>"


def settings(run: Run) -> str:
    """The config, flattened."""
    if run.config is None:
        return '<p class="note">There is no config.json, as the trainer writes it.</p>'
    return table(flat(run.config).items())


def all_numbers(run: Run) -> str:
    """Every scalar: first, last, least and largest."""
    rows = []
    for tag in sorted(run.scalars):
        series = run.scalars[tag]
        finite = series.finite().values
        found = [series.values[0], series.last]
        found += [finite.min(), finite.max()] if finite.size else [np.nan] * 2
        rows.append([tag, str(len(series.steps)), *(shown(float(value), False) for value in found)])
    heads = ["tag", "points", "first", "last", "least", "largest"]
    return table(rows, heads)


def table(rows: Iterable[Iterable[str]], heads: Iterable[str] = ()) -> str:
    """Rows as a table that scrolls where it is too wide, the first cell of each as its head."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = []
    for first, *rest in rows:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
        body.append(f"<tr><th>{html.escape(first)}</th>{cells}</tr>")
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    return (
        f'<div class="wide" tabindex="0"><table class="values">{head}'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def failures(run: Run) -> list[str]:
    """What went wrong, one sentence each: files, measurements, numbers."""
    found = list(run.problems)
    for prefix in run.kernels:
        numbers = run.kernel(prefix).numbers
        series = numbers.get("failures")
        if series is not None and series.last > 0:
            grew = series.steps[np.flatnonzero(np.diff(series.values, prepend=0) > 0)]
            found.append(
                f"{prefix}: {series.last:.0f} measurements or writes failed, first noticed at "
                f"step{'s' if len(grew) > 1 else ''} {_list(grew)}; the run's log says why."
            )
        measured = numbers["lambda_max"]
        zero = measured.steps[measured.values == 0]
        if len(zero):
            found.append(f"{prefix}: the kernel was zero at step {_list(zero)}.")
        bound = numbers.get("condition_is_lower_bound")
        if bound is not None and np.any(bound.values > 0):
            count = int(np.sum(bound.values > 0))
            found.append(
                f"{prefix}: at {count} of {len(bound.steps)} steps the smallest eigenvalue lies "
                "below the noise floor, so the condition number is a lower bound there."
            )
    for tag, series in run.scalars.items():
        if tag.endswith("loss") and not np.isfinite(series.values).all():
            bad = series.steps[~np.isfinite(series.values)]
            found.append(f"{tag} was NaN or infinite at step {_list(bad)}.")
    return found


def _list(steps: np.ndarray) -> str:
    shown_steps = [f"{step:,}" for step in steps[:5]]
    return ", ".join(shown_steps) + (f" and {len(steps) - 5} more" if len(steps) > 5 else "")


def last_of(series: Series | None, percent: bool) -> str | None:
    """The last finite value as text, None if there is none."""
    if series is None or not series.finite().steps.size:
        return None
    return shown(series.finite().last, percent)
