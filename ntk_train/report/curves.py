"""Which numbers of a run are drawn together: training, and each kernel's."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ntk_train.monitor.pictures.canvas import VERMILION
from ntk_train.report.charts import Chart, Line
from ntk_train.report.density import density_picture
from ntk_train.report.read import Run, Series

_MOST_LAYERS = 8  # as many as there are colours


# Title, note, numbers with their texts in the legend, and further fields of `Chart`.
_CHARTS: tuple[tuple[str, str, dict[str, str], dict[str, Any]], ...] = (
    (
        "Ranks",
        "how many directions count, by three measures",
        {"numerical_rank": "numerical", "effective_rank": "effective", "entropy_rank": "entropy"},
        {},
    ),
    ("Trace", "sum of the eigenvalues", {"trace": "trace"}, {}),
    (
        "Alignment with the labels",
        "0 to 1; centred is without the common mean",
        {
            "kernel_target_alignment": "raw",
            "centred_kernel_target_alignment": "centred",
            "top_space_alignment": "of the top space",
        },
        {"log": False},
    ),
    (
        "Change since the first kernel",
        "0 is the lazy regime; the distance is the same whatever the scale",
        {"relative_change": "relative change", "kernel_distance": "kernel distance"},
        {},
    ),
    (
        "Velocity",
        "kernel distance to the previous one, per step",
        {"kernel_velocity": "velocity"},
        {},
    ),
    (
        "Rotation of the top space",
        "largest angle between the top eigenspaces, in radians",
        {"rotation": "since the first", "rotation_since_previous": "since the previous"},
        {"log": False, "zero": True},
    ),
    (
        "Learning rate over the critical one",
        "above 1, descent on the linearised network diverges",
        {"learning_rate_ratio": "ratio"},
        {"marks": ((1.0, "edge of stability"),)},
    ),
    (
        "Critical learning rate",
        "of the probe",
        {"critical_learning_rate": "critical rate"},
        {},
    ),
    (
        "Decay",
        "exponent of lambda ~ rank^-alpha, and how well it fits",
        {"power_law_exponent": "exponent", "power_law_r_squared": "R²"},
        {"log": False},
    ),
    ("Cost", "seconds of each measurement", {"seconds": "seconds"}, {"zero": True}),
    (
        "Cost, relative",
        "share of the run's time that the hook took",
        {"time_share": "share"},
        {"percent": True, "zero": True},
    ),
)


def training_charts(run: Run) -> list[Chart]:
    """Loss, accuracy and learning rate, by what their tags end with."""
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
    ]


def _order(tag: str) -> tuple[int, str]:
    return (0 if "train" in tag else 1, tag)


def kernel_charts(run: Run, prefix: str) -> list[Chart]:
    """The charts of one kernel, in the order of the page."""
    simple = [
        Chart(title, note, _lines(run, prefix, names), **options)
        for title, note, names, options in _CHARTS
    ]
    return [_eigenvalues(run, prefix), _condition(run, prefix), *simple, _layers(run, prefix)]


def _lines(run: Run, prefix: str, names: Mapping[str, str]) -> tuple[Line, ...]:
    """The curves that there are, of numbers with their text in the legend."""
    tags = {f"{prefix}/{name}": text for name, text in names.items()}
    return tuple(Line(text, run.scalars[tag]) for tag, text in tags.items() if tag in run.scalars)


def _eigenvalues(run: Run, prefix: str) -> Chart:
    """The largest and the smallest eigenvalue with the floor, and the density of all behind."""
    density = density_picture(run.histograms.get(f"{prefix}/log10_eigenvalues", {}))
    shades = "; shaded: all eigenvalues above the floor" if density else ""
    floor = [
        dataclasses.replace(line, dashed=True, colour=VERMILION)
        for line in _lines(run, prefix, {"noise_floor": "noise floor"})
    ]
    both = _lines(run, prefix, {"lambda_max": "largest", "lambda_min": "smallest"})
    note = f"below the noise floor they are rounding{shades}"
    return Chart("Eigenvalues", note, (*both, *floor), log=True, behind=density)


def _condition(run: Run, prefix: str) -> Chart:
    """The condition number, hollow where it is only known to be larger."""
    series = run.scalars[f"{prefix}/condition_number"]
    bound = run.scalars.get(f"{prefix}/condition_is_lower_bound")
    hollow = np.zeros(len(series.steps), bool)
    if bound is not None:
        hollow = np.isin(series.steps, bound.steps[bound.values > 0])
    note = "largest over smallest eigenvalue"
    if hollow.any():
        note += "; hollow: a lower bound, the smallest is below the noise floor"
    return Chart("Condition number", note, (Line("condition number", series, hollow=hollow),))


def layer_series(run: Run, prefix: str, key: str) -> dict[str, Series]:
    """The numbers of one key by layer, in the order in which they were logged."""
    start, end = f"{prefix}_layers/", f"/{key}"
    return {
        tag.removeprefix(start).removesuffix(end): series
        for tag, series in run.scalars.items()
        if tag.startswith(start) and tag.endswith(end)
    }


def _layers(run: Run, prefix: str) -> Chart:
    shares = layer_series(run, prefix, "trace_share")
    largest = sorted(shares, key=lambda name: -np.nan_to_num(shares[name].last))[:_MOST_LAYERS]
    lines = tuple(Line(name, series) for name, series in shares.items() if name in largest)
    note = "share of the trace"
    if len(shares) > len(lines):
        note += f"; the {len(lines)} largest of {len(shares)} at the end"
    return Chart("Layers", note, lines, log=False, percent=True, zero=True)
