"""When the hook runs."""

import pytest

from ntk_train import KernelInputError
from ntk_train.monitor.schedule import Schedule


def ran(schedule, steps):
    return [step for step in steps if schedule.due(step, float(step))]


def test_a_rest_leaves_out_the_period_and_no_step_by_name():
    schedule = Schedule(every_steps=2, on_steps=[5], last_step=7)
    assert schedule.due(0, 0.0)
    ran = [step for step in range(1, 8) if schedule.due(step, float(step), rests_until=10.0)]
    assert ran == [5, 7]
    assert not schedule.due(9, 9.9, rests_until=10.0)  # past 8, in the rest
    assert schedule.due(10, 10.0, rests_until=10.0)


def test_every_steps_from_the_first():
    assert ran(Schedule(every_steps=5), range(12)) == [0, 5, 10]


def test_a_resumed_loop_waits_for_the_next_multiple():
    assert ran(Schedule(every_steps=5), range(7, 21)) == [10, 15, 20]


def test_skipped_steps_are_caught_up_once():
    assert ran(Schedule(every_steps=10), [0, 7, 14, 19, 35, 36]) == [0, 14, 35]
    assert ran(Schedule(on_steps=[3, 8]), [0, 2, 5, 6, 20]) == [5, 20]


def test_a_step_runs_once_and_a_loop_may_be_set_back():
    assert ran(Schedule(every_steps=2), [0, 0, 2, 2, 3]) == [0, 2]
    assert ran(Schedule(every_steps=2), [6, 7, 8, 4, 5, 6]) == [6, 8, 4, 6]


def test_on_steps_and_last_step():
    assert ran(Schedule(on_steps=(0, 1, 9), last_step=11), range(20)) == [0, 1, 9, 11]
    assert ran(Schedule(every_steps=4, last_step=10), range(12)) == [0, 4, 8, 10]


def test_every_secs_takes_the_time_it_is_given():
    schedule = Schedule(every_secs=10.0)
    times = [0.0, 3.0, 9.9, 10.0, 15.0, 21.0]
    assert [schedule.due(step, t) for step, t in enumerate(times)] == [1, 0, 0, 1, 0, 1]


def test_every_secs_counts_from_when_a_call_returned():
    schedule = Schedule(every_secs=10.0)
    schedule.held_up(1.0)  # nothing has run
    assert schedule.due(0, 0.0)
    schedule.held_up(12.0)
    assert [schedule.due(step, t) for step, t in ((1, 12.0), (2, 21.9), (3, 22.0))] == [0, 0, 1]


@pytest.mark.parametrize("rules", [{"every_steps": 0}, {"every_secs": -1.0}, {"every_steps": -3}])
def test_rules_must_be_positive(rules):
    with pytest.raises(KernelInputError, match="expected a positive"):
        Schedule(**rules)


def test_a_hook_that_would_never_run_is_refused():
    with pytest.raises(KernelInputError, match="never run"):
        Schedule()
    assert ran(Schedule(last_step=5), range(8)) == [5]
