"""The catalogue has an entry for each number, and each entry is a number."""

import dataclasses

import numpy as np
import pytest

from ntk_train.report.curves import _CHARTS, kernel_charts
from ntk_train.report.read import Kernel, Series
from ntk_train.spectrum.layers import LayerDiagnostics
from ntk_train.spectrum.quantities import CATALOGUE, Quantity, quantity
from tests import diagnostics_page
from tests.spectrum.test_diagnostics import everything


def names(*needs):
    return [entry.name for entry in CATALOGUE if entry.needs in needs]


def test_numbers_of_diagnose_are_those_of_the_catalogue():
    found = everything()
    assert sorted(found.of_kernel()) == sorted(names("kernel", "labels", "training", "references"))
    for numbers in found.layers.values():
        assert list(numbers.scalars()) == names("layers")
    assert [field.name for field in dataclasses.fields(LayerDiagnostics)] == names("layers")


def test_entries_say_all_that_is_printed_of_them():
    assert len({(entry.name, entry.of_layer) for entry in CATALOGUE}) == len(CATALOGUE)
    for entry in CATALOGUE:
        assert entry.title
        assert entry.definition
        assert entry.range
        assert entry.panel or not entry.chart
        assert "|" not in "".join(dataclasses.astuple(entry)), "it would end a cell of the table"
        assert entry is quantity(entry.name, layer=entry.of_layer)
    with pytest.raises(KeyError, match="lambda_med"):
        quantity("lambda_med")


def test_each_chart_of_the_report_has_numbers_and_may_be_added_by_an_entry_alone():
    series = Series(np.arange(2), np.ones(2))
    numbers = {entry.name: series for entry in CATALOGUE}
    kernel = Kernel("ntk", numbers, {"a": numbers}, {}, {}, {})
    charts = kernel_charts(kernel)
    titles = [chart.title for chart in charts]
    assert titles[: len(_CHARTS)] == list(_CHARTS)
    assert sorted(titles) == sorted({entry.chart for entry in CATALOGUE if entry.chart})
    assert all(chart.lines for chart in charts)


def test_the_tables_of_the_page_are_made_of_it():
    text = diagnostics_page.PAGE.read_text()
    assert text == diagnostics_page.page(text), "run python -m tests.diagnostics_page"
    kinds = [found[1] for found in diagnostics_page.MARK.finditer(text)]
    assert sorted(kinds) == sorted({entry.needs for entry in CATALOGUE})


def test_what_an_entry_leaves_out_follows_from_the_rest():
    least = {"name": "a", "title": "an a", "needs": "kernel", "definition": "a", "range": "0 or 1"}
    plain = Quantity(**least)
    assert (plain.chart, plain.panel, plain.legend) == ("", "", "an a")
    drawn = Quantity(**least, chart="Ranks")
    assert drawn.panel == "Ranks"
