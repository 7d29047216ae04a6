"""What a measurement is charged: its own work, whether it comes out or not."""

import threading
import time

import pytest

from ntk_train import NTKHook
from ntk_train.monitor import hooks_for
from ntk_train.monitor.blas import one_blas_thread
from ntk_train.monitor.overhead import Overhead
from ntk_train.monitor.schedule import Schedule
from tests.monitor.test_hook import PARAMS, PROBE, Recorder, f


def test_waiting_for_the_linear_algebra_of_another_is_not_charged():
    pytest.importorskip("threadpoolctl")
    hook, held = NTKHook(f, PROBE, every_steps=1), threading.Event()

    def other():
        with one_blas_thread():
            held.set()
            time.sleep(2)

    other = threading.Thread(target=other)
    other.start()
    held.wait()
    start = time.perf_counter()
    hook(0, params=PARAMS)
    seconds = hook.latest.seconds
    other.join()
    assert time.perf_counter() - start > 1  # it has waited
    assert seconds < 1


def test_a_failed_measurement_is_charged(monkeypatch):
    def fails(*args, **kwargs):
        time.sleep(0.2)
        raise ArithmeticError

    monkeypatch.setattr("ntk_train.monitor.measure.diagnose", fails)
    hook = NTKHook(f, PROBE, every_steps=1, max_overhead=0.01)
    assert hook(0, 0.0, params=PARAMS)
    hook.wait()
    assert hook.failures == 1
    assert not hook(1, 10.0, params=PARAMS)  # of the 20 s at least that 0.2 s ask for
    assert hook(2, 1e9, params=PARAMS)
    hook.wait()


@pytest.mark.parametrize(("bound", "took"), [(0.01, 0.38), (0.1, 0.5), (0.5, 3.0)])
def test_the_share_is_below_the_bound_from_the_second_on(bound, took):
    schedule = Schedule(every_steps=1)
    overhead, spent, shares, now = Overhead(bound), 0.0, [], 0.0
    for step in range(4000):
        if schedule.due(step, now, overhead.rests_until):
            overhead.begin(now)
            now, spent = now + took, spent + took
            overhead.end(took)
            shares.append(spent / now)
        now += 0.04
    assert shares[0] == 1
    assert len(shares) >= 2
    assert all(share <= bound for share in shares[1:])
    assert 0.8 * bound < spent / now <= bound  # and is used


def test_no_hook_of_several_logs_a_share_of_its_first_measurement():
    writer = Recorder()

    def last(found):
        a_ends_after_b = len(found.kernel) == len(PROBE)
        return a_ends_after_b and hooks["b"].wait() and False

    probes = {"a": PROBE, "b": PROBE[:4]}
    hooks = hooks_for(f, probes, every_steps=1, writer=writer, stop_when=last)
    for step in range(2):
        hooks(step, params=PARAMS)
        hooks.wait()
    for tag in ("ntk/time_share", "ntk_b/time_share"):
        assert [step for step, scalars in writer.of("write_scalars") if tag in scalars] == [1]
