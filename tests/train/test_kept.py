"""What is kept beside a checkpoint comes back from its file, with less of it too."""

import io

import numpy as np
import pytest

pytest.importorskip("ml_collections")

from ntk_train.configs import default
from ntk_train.monitor.history import History
from ntk_train.spectrum import ReferenceKernels
from ntk_train.train.kept import Kept, Stop


def through_a_file(kept):
    file = io.BytesIO()
    np.savez(file, **kept.to_dict())
    file.seek(0)
    with np.load(file) as arrays:
        return Kept.from_dict(arrays)


@pytest.mark.parametrize("names", [(), ("train",), ("train", "history", "reason")])
@pytest.mark.parametrize("stop", [None, Stop("train: condition number 1e+09 at step 3", 1e6)])
def test_it_comes_back_from_its_arrays(names, stop):
    history = History()
    history.append(3, {"lambda_max": 2.0})
    references = {name: ReferenceKernels.start(np.eye(2) * i, i) for i, name in enumerate(names, 1)}
    again = through_a_file(Kept(references, dict.fromkeys(names, history), stop))
    assert again.stop == stop
    assert set(again.references) == set(again.histories) == set(names)
    for name, kept in references.items():
        np.testing.assert_array_equal(again.references[name].initial, kept.initial)
        assert again.references[name].initial_step == kept.initial_step
        assert list(again.histories[name]) == list(history)


def test_references_alone_as_older_runs_have_them_are_read():
    arrays = ReferenceKernels.start(np.eye(2), 4).to_dict()
    kept = Kept.from_dict({f"train/{key}": array for key, array in arrays.items()})
    assert kept.references["train"].initial_step == 4
    assert kept.stop is None
    assert not kept.histories


@pytest.mark.parametrize(
    ("bound", "enabled", "holds"),
    [(10, True, True), (5, True, True), (11, True, False), (0, True, False), (10, False, False)],
)
def test_a_stop_holds_unless_its_bound_is_raised(bound, enabled, holds):
    config = default.get_config("fcn")
    config.ntk.enabled, config.ntk.stop_above_condition_number = enabled, float(bound)
    assert Stop("late", 10.0).holds(config) == holds
