"""Axes: values lie within, ticks are round and few, and no range breaks them."""

import math

import numpy as np
import pytest

from ntk_train.report.scale import linear_ticks, log_ticks, scale_of

RANGES = [(0.0, 1.0), (-3.0, 5e-3), (1e-9, 2e-9), (99.9, 100.0), (0.0, 6e5), (-1e-300, 1e-300)]


@pytest.mark.parametrize("low_high", RANGES)
def test_linear_ticks_are_few_round_and_inside(low_high):
    low, high = low_high
    ticks = linear_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert low - 1e-9 * (high - low) <= ticks[0] <= ticks[-1] <= high + 1e-9 * (high - low)
    step = ticks[1] - ticks[0]
    mantissa = step / 10.0 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-3
    np.testing.assert_allclose(np.diff(ticks), step, rtol=1e-3)


@pytest.mark.parametrize("low_high", [(1.0, 2.0), (0.3, 40.0), (1e-12, 1e9), (1e-300, 1e300)])
def test_log_ticks_are_few_and_inside(low_high):
    ticks = log_ticks(*low_high)
    assert 2 <= len(ticks) <= 8
    assert low_high[0] * 0.99 <= min(ticks) <= max(ticks) <= low_high[1] * 1.01
    assert ticks == sorted(ticks)


@pytest.mark.parametrize(
    "values",
    [[1.0], [0.0, 0.0], [1e-5, 1e5], [-2.0, 1e9], [np.nan, 3.0], [np.inf, 1.0], [1e-300, 1e300]],
)
@pytest.mark.parametrize("log", [None, False, True])
def test_finite_values_lie_within_the_axis(values, log):
    values = np.array(values)
    scale = scale_of(values, 200.0, 10.0, log)
    shown = values[np.isfinite(values) & ((values > 0) | (not scale.log))]
    places = scale(shown)
    assert np.all((places >= 10.0) & (places <= 200.0))
    assert scale.ticks()


def test_an_axis_is_logarithmic_where_positive_values_differ_by_much():
    assert scale_of(np.array([1.0, 30.0]), 0, 1).log
    assert not scale_of(np.array([1.0, 3.0]), 0, 1).log
    assert not scale_of(np.array([0.0, 30.0]), 0, 1).log


def test_nothing_to_show_has_an_axis_too():
    for log in (None, True):
        assert scale_of(np.array([np.nan]), 0, 1, log).ticks()


def test_what_is_not_positive_has_no_place_on_a_log_axis():
    places = scale_of(np.array([1.0, 100.0]), 0, 1, True)(np.array([0.0, -1.0, 10.0]))
    assert np.isnan(places[:2]).all()
    assert places[2] == pytest.approx(0.5)
