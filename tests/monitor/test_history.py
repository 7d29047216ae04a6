"""The numbers of a run in bounded memory."""

import io
import math

import numpy as np
import pytest

from ntk_train.monitor.history import History


@pytest.mark.parametrize("size", [2, 7, 8])
def test_a_full_history_spans_the_run_and_ends_with_the_last_step(size):
    history = History(size)
    for step in range(0, 1000, 10):
        history.append(step, {"a": float(step)})
        assert len(history) <= size
        steps, values = history.curve("a")
        assert steps == sorted(set(steps))
        assert steps[-1] == step
        assert values == [float(step) for step in steps]
    assert len(history) >= size / 2


def test_a_run_that_goes_on_has_the_numbers_of_both():
    earlier, history = History(), History()
    for step in range(3):
        earlier.append(step, {"a": float(step)})
    history.go_on_from(earlier)
    history.append(3, {"a": 3.0})
    assert history.curve("a") == ([0, 1, 2, 3], [0.0, 1.0, 2.0, 3.0])
    assert len(earlier) == 3


def test_a_curve_has_the_steps_at_which_its_number_was_there():
    history = History()
    history.append(0, {"a": 1.0})
    history.append(5, {"a": 2.0, "b": 3.0})
    assert history.curve("b") == ([5], [3.0])
    assert history.curve("c") == ([], [])
    assert history.names() == ["a", "b"]


@pytest.mark.parametrize(
    "entries",
    [[], [(0, {"a": 1.0 / 3})], [(0, {"a": 1.0, "n": math.nan}), (7, {"b": math.inf, "a": -0.0})]],
)
def test_a_history_comes_back_from_its_arrays_without_what_is_nan(entries):
    history, file = History(), io.BytesIO()
    for step, scalars in entries:
        history.append(step, scalars)
    np.savez(file, **history.to_dict())
    file.seek(0)
    with np.load(file) as arrays:
        again = History.from_dict(arrays)
    want = [
        (step, {name: value for name, value in scalars.items() if not math.isnan(value)})
        for step, scalars in entries
    ]
    assert list(again) == want
