"""The slowdown is that of a clock beside the run, of which it knows no more than times of logs."""

import pytest

from ntk_train.train.slowdown import Slowdown


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def made_run(intervals, *, alone, beside, evaluation=7.0):
    """A run of log intervals (steps, whether a kernel is under way) on a clock of its own."""
    clock = Clock()
    slowdown, step = Slowdown(clock), 0
    clock.now += 55.0  # compiles
    slowdown.log(step)
    for steps, busy in intervals:
        slowdown.busy = busy
        with slowdown.paused():
            clock.now += evaluation
        clock.now += steps * (beside if busy else alone)
        step += steps
        slowdown.log(step)
    return slowdown.value


@pytest.mark.parametrize(("alone", "beside"), [(0.1, 0.15), (2.0, 2.0), (0.01, 1.0)])
def test_it_is_what_two_runs_show(alone, beside):
    intervals = [(5, True), (5, False), (10, False), (5, True), (15, False)]
    with_kernels = 10 * beside + 30 * alone
    without = 40 * alone
    value = made_run(intervals, alone=alone, beside=beside)
    assert value == pytest.approx(with_kernels / without - 1, abs=1e-9)


@pytest.mark.parametrize("intervals", [[], [(5, True)], [(5, False), (5, False)]])
def test_without_steps_of_both_kinds_it_is_not_known(intervals):
    assert made_run(intervals, alone=0.1, beside=0.2) is None


def test_time_share_is_no_part_of_it(tmp_path, monkeypatch):
    """A run whose steps wait 20 ms beside its kernels, and 10 without, by a clock that is set."""
    pytest.importorskip("clu")
    from ntk_train.train import loop, train_and_evaluate
    from tests.train.test_loop import config_of, scalars

    clock = Clock()
    monkeypatch.setattr(loop, "Slowdown", lambda: Slowdown(clock))
    begun, after = loop.Run._run_hook, loop.Run._after
    under_way = []

    def run_hook(self, step):
        under_way.append(begun(self, step))
        return under_way[-1]

    def slow(self, step):
        clock.now += 0.02 if under_way[-1] else 0.01
        after(self, step)
        self._slowdown.busy = under_way[-1]  # for as long as the interval, whatever it took

    monkeypatch.setattr(loop.Run, "_run_hook", run_hook)
    monkeypatch.setattr(loop.Run, "_after", slow)
    config = config_of(**{"num_train_steps": 12, "log_every_steps": 1, "ntk.every_steps": 4})
    train_and_evaluate(config, tmp_path)
    found = scalars(tmp_path)["kernel_slowdown"]
    # Steps 2 to 12 count: 5 and 9 are beside the kernels of steps 4 and 8.
    assert found[12] == pytest.approx((9 * 0.01 + 2 * 0.02) / (11 * 0.01) - 1, rel=1e-5)
