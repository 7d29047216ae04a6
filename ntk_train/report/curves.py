"""Which numbers of a run are drawn together: training, and each kernel's."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ntk_train.monitor.pictures.canvas import VERMILION
from ntk_train.report.charts import Chart, Line
from ntk_train.report.density import density_picture
from ntk_train.report.read import Kernel, Run, Series
from ntk_train.spectrum.quantities import CATALOGUE

_MOST_LAYERS = 8  # as many as there are colours


# The charts in the order of the page: a note on each, and further fields of `Chart`. Which numbers
# are drawn in one says the catalogue; a chart that is not here comes last, without a note.
_CHARTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Eigenvalues": ("below the noise floor they are rounding", {"log": True}),
    "Condition number": ("largest over smallest eigenvalue", {}),
    "Ranks": ("how many directions count, by several measures", {}),
    "Trace": ("sum of the eigenvalues", {}),
    "Alignment with the labels": (
        "centred is without the common mean, debiased is 0 by chance",
        {"log": False},
    ),
    "Change since the first kernel": (
        "0 is the lazy regime; the distance is the same whatever the scale",
        {},
    ),
    "Velocity": ("kernel distance to the previous one, per step", {}),
    "Rotation of the top space": (
        "largest angle between the top eigenspaces, in radians",
        {"log": False, "zero": True},
    ),
    "Learning rate over the critical one": (
        "above 1, descent on the linearised network is locally unstable",
        {"marks": ((1.0, "edge of stability"),)},
    ),
    "Critical learning rate": ("of the probe", {}),
    "Decay": ("exponent of lambda ~ rank^-alpha, and how well it fits", {"log": False}),
    "Cost": ("seconds of each measurement", {"zero": True}),
    "Cost, relative": (
        "share of the run's time that the hook took",
        {"percent": True, "zero": True},
    ),
    "Layers": ("share of the trace", {"log": False, "percent": True, "zero": True}),
}


def training_charts(run: Run) -> list[Chart]:
    """Loss, accuracy, learning rate and slowdown, by what their tags end with."""
    tags = [tag for tag in run.scalars if not any(tag.startswith(f"{k}/") for k in run.kernels)]

    def lines(pattern: str) -> tuple[Line, ...]:
        found = [tag for tag in sorted(tags, key=_order) if re.search(pattern, tag)]
        return tuple(Line(tag.replace("_", " "), run.scalars[tag]) for tag in found[:8])

    accuracy = lines(r"(^|[/_])acc(uracy)?$")
    parts = [line.series.finite().values for line in accuracy]
    percent = all(np.all((part >= 0) & (part <= 1)) for part in parts)
    return [
        Chart("Loss", "on the training batches and the evaluated part", lines(r"(^|[/_])loss$")),
        Chart("Accuracy", "on the same examples as the loss", accuracy, log=False, percent=percent),
        Chart(
            "Learning rate", "of the update before the step", lines(r"(^|[/_])(learning_rate|lr)$")
        ),
        Chart(
            "Slowdown",
            "of training by its kernels, so far",
            lines(r"(^|/)kernel_slowdown$"),
            log=False,
            percent=True,
            zero=True,
        ),
    ]


def _order(tag: str) -> tuple[int, str]:
    return (0 if "train" in tag else 1, tag)


def kernel_charts(kernel: Kernel) -> list[Chart]:
    """The charts of one kernel, in the order of the page."""
    titles = [*_CHARTS, *(entry.chart for entry in CATALOGUE if entry.chart)]
    plain = {title: _chart(kernel, title) for title in titles}
    return [
        _FINISH[title](chart, kernel) if title in _FINISH else chart
        for title, chart in plain.items()
    ]


def _chart(kernel: Kernel, title: str) -> Chart:
    """The curves that there are, of the numbers which the catalogue puts into a chart."""
    drawn = [entry for entry in CATALOGUE if entry.chart == title and not entry.of_layer]
    lines = tuple(
        Line(entry.legend, kernel.numbers[entry.name])
        for entry in drawn
        if entry.name in kernel.numbers
    )
    note, options = _CHARTS.get(title, ("", {}))
    return Chart(title, note, lines, **options)


def _with_density(chart: Chart, kernel: Kernel) -> Chart:
    """The floor is dashed, and the density of all eigenvalues lies behind."""
    density = density_picture(kernel.histograms.get("log10_eigenvalues", {}))
    shades = "; shaded: all eigenvalues above the floor" if density else ""
    floor = kernel.numbers.get("noise_floor")
    lines = tuple(
        dataclasses.replace(line, dashed=True, colour=VERMILION) if line.series is floor else line
        for line in chart.lines
    )
    return dataclasses.replace(chart, note=chart.note + shades, lines=lines, behind=density)


def _with_bounds(chart: Chart, kernel: Kernel) -> Chart:
    """Points are hollow where the condition number is only known to be larger."""
    line, *others = chart.lines
    bound = kernel.numbers.get("condition_is_lower_bound")
    hollow = np.zeros(len(line.series.steps), bool)
    if bound is not None:
        hollow = np.isin(line.series.steps, bound.steps[bound.values > 0])
    note = chart.note
    if hollow.any():
        note += "; hollow: a lower bound, the smallest is below the noise floor"
    lines = (dataclasses.replace(line, hollow=hollow), *others)
    return dataclasses.replace(chart, note=note, lines=lines)


def layer_series(kernel: Kernel, name: str) -> dict[str, Series]:
    """One number by layer, of those that have it, in the order in which they were logged."""
    return {layer: of[name] for layer, of in kernel.layers.items() if name in of}


def _with_layers(chart: Chart, kernel: Kernel) -> Chart:
    """A curve for each of the layers with the largest shares at the end."""
    shares = layer_series(kernel, "trace_share")
    largest = sorted(shares, key=lambda name: -np.nan_to_num(shares[name].last))[:_MOST_LAYERS]
    lines = tuple(Line(name, series) for name, series in shares.items() if name in largest)
    note = chart.note
    if len(shares) > len(lines):
        note += f"; the {len(lines)} largest of {len(shares)} at the end"
    return dataclasses.replace(chart, note=note, lines=lines)


# What is drawn of more than the numbers of the chart.
_FINISH: Mapping[str, Callable[[Chart, Kernel], Chart]] = {
    "Eigenvalues": _with_density,
    "Condition number": _with_bounds,
    "Layers": _with_layers,
}
