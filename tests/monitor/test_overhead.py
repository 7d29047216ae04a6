"""What a measurement is charged: its own work, whether it comes out or not."""

import threading
import time

import jax
import jax.numpy as jnp
import pytest

from ntk_train import NTKHook
from ntk_train.monitor import hooks_for
from ntk_train.monitor.blas import one_blas_thread
from ntk_train.monitor.certifier import Certifier
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


TIMES = {  # of one measurement after the other, the last for ever
    "all alike": [0.5],
    "the first is the slowest": [3.0, 0.5],
    "later ones are slower": [0.5, 0.8, 0.7, 1.0, 0.8],
    "ever slower": [0.3, 0.5, 0.9, 1.7, 3.0],
}


@pytest.mark.parametrize("bound", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("times", TIMES)
def test_the_share_is_below_the_bound_from_the_second_on(bound, times):
    schedule, overhead = Schedule(every_steps=1), Overhead(bound)
    rest, spent, shares, now = list(TIMES[times]), 0.0, [], 0.0
    for step in range(60_000):
        if schedule.due(step, now, overhead.rests_until):
            took = rest.pop(0) if len(rest) > 1 else rest[0]
            overhead.begin(now)
            now, spent = now + took, spent + took
            overhead.end(took)
            shares.append(spent / now)
        now += 0.2
    assert shares[0] == 1
    assert len(shares) >= 5
    assert all(share <= bound for share in shares[1:])
    assert 0.8 * bound < spent / now <= bound  # and is used


def test_a_pause_is_not_made_up_for_at_once():
    overhead = Overhead(0.1)
    overhead.begin(0.0)
    overhead.end(1.0)
    assert overhead.rests_until == 28.0  # (1 + 2) / (28 + 2) = 0.1
    overhead.begin(1000.0)
    overhead.end(1.0)
    assert overhead.rests_until == 1010.0


def test_the_certificate_is_charged(monkeypatch):
    compare = Certifier.certificate

    def slow(*args):
        time.sleep(0.5)
        return compare(*args)

    monkeypatch.setattr(Certifier, "certificate", slow)
    hook = NTKHook(f, PROBE, every_steps=1, max_overhead=0.01)
    hook(0, 0.0, params=PARAMS)
    assert hook.latest.check_seconds > 0.5 > hook.latest.seconds
    assert hook.overhead.rests_until > 3 * 0.5 / 0.01 - 2


def test_tracing_and_compilation_are_apart(monkeypatch):
    def slow_to_trace(params, x):
        time.sleep(0.2)
        return f(params, x)

    started, compiles = [], jax.stages.Lowered.compile

    def slow_to_compile(lowered, *args, **kwargs):
        started.append(time.perf_counter())
        time.sleep(0.3)
        return compiles(lowered, *args, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, "compile", slow_to_compile)
    writer = Recorder()
    hook = NTKHook(slow_to_trace, PROBE, every_steps=1, writer=writer, check=False)
    start = time.perf_counter()
    hook(0, params=PARAMS)
    took = time.perf_counter() - start
    hook.wait()
    hook(1, params=PARAMS)
    hook.close()
    (_, first), (_, second) = writer.of("write_scalars")
    assert 0.2 < first["ntk/trace_seconds"] < took
    assert first["ntk/trace_seconds"] + first["ntk/blocked_seconds"] == pytest.approx(took, abs=0.1)
    assert first["ntk/blocked_seconds"] < 0.2
    assert first["ntk/seconds"] < 0.3
    assert first["ntk/compile_seconds"] > 0.3 * len(started)
    assert second["ntk/trace_seconds"] == first["ntk/trace_seconds"]  # once
    hook(2, params={name: leaf.astype(jnp.float16) for name, leaf in PARAMS.items()})
    hook.close()
    third = writer.of("write_scalars")[-1][1]
    assert third["ntk/trace_seconds"] > 0.2 + second["ntk/trace_seconds"]
    assert third["ntk/blocked_seconds"] < 0.2
    assert third["ntk/compile_seconds"] > second["ntk/compile_seconds"] + 0.3


def test_seconds_count_from_the_end_of_a_call_that_was_held_up():
    def slow_to_trace(params, x):
        time.sleep(0.3)
        return f(params, x)

    hook = NTKHook(slow_to_trace, PROBE, every_secs=0.25, check=False)
    assert hook(0, params=PARAMS)
    hook.wait()
    assert not hook(1, params=PARAMS)
    time.sleep(0.3)
    assert hook(2, params=PARAMS)
    hook.close()


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
