"""The loop goes on while a measurement is under way, and what it donates is not read any more."""

import threading
import time
from concurrent.futures import Future

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import NTKHook, ntk
from ntk_train.kernel import auto
from ntk_train.monitor.program import KernelProgram
from tests.monitor.test_hook import PARAMS, PROBE, Recorder, f


@pytest.fixture
def gate(monkeypatch):
    """Holds compilation back until it is set."""
    event, compiles = threading.Event(), KernelProgram.__init__

    def gated(self, *args, **kwargs):
        compiles(self, *args, **kwargs)
        kernel, self._kernel = self._kernel, Future()
        pass_on = lambda later: event.wait(30) and later.set_result(kernel.result())
        threading.Thread(target=pass_on, args=[self._kernel], daemon=True).start()

    monkeypatch.setattr(KernelProgram, "__init__", gated)
    yield event
    event.set()


def test_the_first_steps_do_not_wait_for_the_compilation(gate):
    hook = NTKHook(f, PROBE, every_steps=10)
    step = jax.jit(lambda p: jax.tree.map(lambda leaf: 0.5 * leaf, p), donate_argnums=0)
    params = jax.tree.map(jnp.copy, PARAMS)
    assert hook(0, params=params)
    assert not hook.idle
    donated = params
    params = step(params)
    assert jax.tree.leaves(donated)[0].is_deleted()
    assert not hook(1, params=params)
    gate.set()
    want = ntk(f, PARAMS, PROBE, outputs="trace")
    np.testing.assert_allclose(hook.latest.kernel, want, rtol=1e-12)


@pytest.mark.parametrize("per_layer", [False, True])
def test_the_loop_waits_for_one_plan(monkeypatch, per_layer):
    plans, prepare = [], auto.prepare
    monkeypatch.setattr(auto, "prepare", lambda *args: plans.append(prepare(*args)) or plans[-1])
    hook = NTKHook(f, PROBE, every_steps=10, per_layer=per_layer)
    assert hook(0, params=PARAMS)
    want = ntk(f, PARAMS, PROBE, outputs="trace", implementation="jacobian_contraction")
    np.testing.assert_allclose(hook.latest.kernel, want, rtol=1e-12)
    assert len(plans) == 1


def test_kernels_of_donated_parameters_equal_those_that_are_waited_for():
    """Large enough that the kernel is still running when the next step is dispatched."""
    probe = jnp.sin(jnp.arange(64 * 48.0)).reshape(64, 48)
    params = {"w": jnp.cos(jnp.arange(48.0 * 512)).reshape(48, 512) / 7, "v": jnp.ones((512, 8))}
    step = jax.jit(lambda p: jax.tree.map(lambda leaf: 0.9 * leaf, p), donate_argnums=0)
    kernels = {}
    for wait in (True, False):
        hook, now = NTKHook(f, probe, every_steps=1), jax.tree.map(jnp.copy, params)
        for number in range(6):
            assert hook(number, params=now)
            if wait:
                hook.wait()
            now = step(now)
        kernels[wait] = hook.latest.kernel, hook.references.initial
    np.testing.assert_array_equal(kernels[True], kernels[False])


def test_numpy_parameters_may_be_written_to_after_the_call(gate):
    params = jax.tree.map(np.array, PARAMS)
    hook = NTKHook(f, PROBE, every_steps=1)
    for number in range(2):  # copied, and then dispatched
        want = ntk(f, params, PROBE, outputs="trace")
        assert hook(number, params=params)
        for leaf in params.values():
            leaf *= 0.5
        gate.set()
        np.testing.assert_allclose(hook.latest.kernel, want, rtol=1e-12)


def test_what_is_written_is_in_the_order_of_the_steps_and_one_is_under_way():
    class Slow(Recorder):
        def __getattr__(self, method):
            write = super().__getattr__(method)
            return lambda *args: (threading.Event().wait(0.02), write(*args))

    writer = Slow()
    with NTKHook(f, PROBE, every_steps=1, writer=writer, pictures=False) as hook:
        for step in range(6):
            hook(step, params=PARAMS)
    steps = [args[0] for name, *args in writer.written if name != "write_hparams"]
    assert steps == sorted(steps)
    scalars = dict(writer.of("write_scalars"))
    assert list(scalars) == list(range(6))
    assert scalars[2]["ntk/blocked_seconds"] > 0.01  # waited for the one before


def test_an_exception_in_the_loop_flushes_what_is_there():
    writer = Recorder()

    def loop():
        with NTKHook(f, PROBE, every_steps=1, writer=writer) as hook:
            hook(0, params=PARAMS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert [step for step, _ in writer.of("write_scalars")] == [0]
    assert writer.flushed == 1


class Stuck(Recorder):
    """Hangs in its first numbers until it is released; refuses what comes after it is closed."""

    def __init__(self):
        super().__init__()
        self.release, self.hangs, self.closed = threading.Event(), threading.Event(), False

    def __getattr__(self, method):
        write = super().__getattr__(method)

        def checked(*args):
            assert not self.closed
            write(*args)

        return checked

    def write_scalars(self, *args):
        self.hangs.set()
        self.release.wait(30)
        self.written.append(("write_scalars", *args))


def test_closing_never_hangs(caplog):
    writer = Stuck()
    hook = NTKHook(f, PROBE, every_steps=1, writer=writer, pictures=False)
    hook(0, params=PARAMS)
    hook.close(timeout=0.1)
    assert "of ntk at step 0 took over 0.1 s and is lost" in caplog.text
    writer.release.set()
    hook.close()
    hook.close()  # twice does no harm


def test_what_comes_after_a_close_that_timed_out_is_dropped():
    writer = Stuck()
    hook = NTKHook(f, PROBE, every_steps=1, writer=writer, pictures=False)
    hook(0, params=PARAMS)
    assert writer.hangs.wait(30)
    hook.close(timeout=0.1)
    assert writer.flushed == 1
    writer.closed = True  # by its owner
    writer.release.set()
    assert hook.wait()
    assert [name for name, *_ in writer.written if name != "write_summaries"] == ["write_scalars"]
    assert hook.failures == 0
    writer.closed = False
    assert hook(1, params=PARAMS)  # a hook that goes on writes again
    hook.close()
    assert [step for step, *_ in writer.of("write_histograms")] == [1]


def test_closing_does_not_wait_for_a_flush_that_hangs_too(monkeypatch):
    class Hung(Stuck):
        def flush(self):
            self.release.wait(30)

    monkeypatch.setattr("ntk_train.monitor.summaries._SECONDS_TO_FLUSH", 0.1)
    writer = Hung()
    hook = NTKHook(f, PROBE, every_steps=1, writer=writer, pictures=False)
    hook(0, params=PARAMS)
    start = time.monotonic()
    hook.close(timeout=0.1)
    assert time.monotonic() - start < 20
    writer.release.set()


def test_a_writer_that_hangs_costs_measurements_and_not_the_run(monkeypatch, caplog):
    monkeypatch.setattr("ntk_train.monitor.pipeline._SECONDS_TO_WRITE", 0.1)
    writer = Stuck()
    hook = NTKHook(f, PROBE, every_steps=1, writer=writer, pictures=False)
    start = time.monotonic()
    assert hook(0, params=PARAMS)
    assert not hook(1, params=PARAMS)
    assert "No kernel at step 1" in caplog.text
    assert "step 0 has not been written within 0.1 s" in caplog.text
    assert hook.failures == 1
    assert hook.latest.step == hook.references.previous_step == 0
    assert time.monotonic() - start < 20
    writer.release.set()
    assert hook.wait()
    assert hook(2, params=PARAMS)
    assert hook.latest.step == 2


def test_a_slow_kernel_is_waited_for_longer_than_a_writer(gate, monkeypatch):
    monkeypatch.setattr("ntk_train.monitor.pipeline._SECONDS_TO_WRITE", 0.1)
    hook = NTKHook(f, PROBE, every_steps=1)
    assert hook(0, params=PARAMS)
    threading.Timer(0.5, gate.set).start()
    hook.wait()
    assert hook(1, params=PARAMS)
    assert hook.latest.step == 1
    assert hook.failures == 0


def no_thread(monkeypatch):
    start = threading.Thread.start

    def refused(thread):
        if thread.name == "ntk-worker":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)


def test_without_a_thread_the_measurement_is_counted_and_the_next_one_made(monkeypatch, caplog):
    writer = Recorder()
    hook = NTKHook(f, PROBE, every_steps=1, writer=writer, max_overhead=0.5, pictures=False)
    assert hook(0, 0.0, params=PARAMS)
    hook.wait()
    with monkeypatch.context() as patch:
        no_thread(patch)
        assert not hook(1, 1e9, params=PARAMS)
        assert hook.idle
    assert "can't start new thread" in caplog.text
    assert hook.failures == 1
    assert hook(2, 2e9, params=PARAMS)  # it does not rest for ever
    assert hook.latest.step == 2
    assert [step for step, _ in writer.of("write_scalars")] == [0, 1, 2]


def test_without_a_thread_a_failure_is_survived_too(monkeypatch):
    writer = Recorder()
    hook = NTKHook(lambda p, x: f(p, x) * 1j, PROBE, every_steps=1, writer=writer)
    no_thread(monkeypatch)
    assert not hook(0, params=PARAMS)
    assert [scalars["ntk/failures"] for _, scalars in writer.of("write_scalars")] == [1]


def test_a_closed_hook_can_be_called_again():
    hook = NTKHook(f, PROBE, every_steps=1)
    hook(0, params=PARAMS)
    hook.close()
    assert hook(1, params=PARAMS)
    assert hook.latest.step == 1


def test_a_hook_that_was_closed_while_it_compiled_compiles_anew():
    hook = NTKHook(f, PROBE, every_steps=1)
    hook.prepare(params=PARAMS)
    hook.close()
    assert hook.pipeline._kernels._program.cancelled
    assert hook(0, params=PARAMS)
    assert hook.latest.step == 0
    assert hook.failures == 0
