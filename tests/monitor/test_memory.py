"""Out of memory: compiled anew with half of it and tried again, until there is nothing to halve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import NTKHook, ntk
from ntk_train.monitor.memory import MemoryBudget
from ntk_train.monitor.program import KernelProgram
from tests.monitor.test_hook import PARAMS, PROBE, Recorder, f


class Exhausted:
    """Programs of more than some bytes fail, when they are started, fetched or compiled."""

    def __init__(self, monkeypatch, where, most):
        self.most, self.budgets = most, []
        start, init, run = KernelProgram.start, KernelProgram.__init__, KernelProgram._run

        def created(program, *args, **kwargs):
            init(program, *args, **kwargs)
            self.budgets.append(program.budget)
            if where == "compilation":
                compile_ = program._kernel

                class Failing(type(compile_)):
                    def done(self):
                        return compile_.done()

                    def exception(self, timeout=None):
                        return compile_.exception(timeout)

                    def result(_, timeout=None):
                        self.check(program)
                        return compile_.result(timeout)

                program._kernel = Failing()

        def started(program, *args, **kwargs):
            if where == "dispatch":
                self.check(program)
            return start(program, *args, **kwargs)

        def ran(program, *args):
            if where == "run":
                self.check(program)
            return run(program, *args)

        monkeypatch.setattr(KernelProgram, "__init__", created)
        monkeypatch.setattr(KernelProgram, "start", started)
        monkeypatch.setattr(KernelProgram, "_run", ran)
        monkeypatch.setattr(KernelProgram, "temporary_bytes", None)

    def check(self, program):
        if program.budget is None or program.budget > self.most:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: injected")


@pytest.mark.parametrize("where", ["dispatch", "compilation", "run"])
def test_it_is_tried_again_with_half_of_the_memory(where, monkeypatch, caplog):
    device, writer = Exhausted(monkeypatch, where, 1.5e9), Recorder()
    hook = NTKHook(f, PROBE, every_steps=1, writer=writer)
    step = jax.jit(lambda p: jax.tree.map(lambda leaf: 0.5 * leaf, p), donate_argnums=0)
    params = jax.tree.map(jnp.copy, PARAMS)
    assert hook(0, params=params)
    params = step(params)  # donated: what is tried again has copies
    np.testing.assert_allclose(
        hook.latest.kernel, ntk(f, PARAMS, PROBE, outputs="trace"), rtol=1e-12
    )
    assert device.budgets[0] is None
    assert device.budgets[1:] == [4e9, 2e9, 1e9]
    assert caplog.text.count("Out of memory at step 0") == 3
    assert hook.failures == 3
    assert hook(1, params=params)  # with what was found
    assert hook.latest.step == 1
    assert len(device.budgets) == 4
    scalars = dict(writer.of("write_scalars"))
    assert list(scalars) == [0, 1]
    assert scalars[0]["ntk/failures"] == 3


def test_it_gives_up_where_there_is_nothing_to_halve(monkeypatch, caplog):
    device = Exhausted(monkeypatch, "dispatch", 0)
    hook = NTKHook(f, PROBE, every_steps=1, max_failures=2)
    assert [hook(step, params=PARAMS) for step in range(4)] == [False] * 4
    assert min(budget for budget in device.budgets if budget) >= 2**24
    assert "fewer probe inputs" in caplog.text
    assert "gives up after 2 failures" in caplog.text
    assert len(device.budgets) == 1 + caplog.text.count("Out of memory at step")


def test_parameters_that_were_donated_are_lost_and_the_next_takes_less(monkeypatch, caplog):
    hook = NTKHook(f, PROBE, every_steps=1)
    hook(0, params=PARAMS)
    hook.wait()
    fetch = "ntk_train.monitor.program.jax.device_get"
    get, step = jax.device_get, jax.jit(lambda p: jax.tree.map(jnp.sin, p), donate_argnums=0)
    donated = jax.tree.map(jnp.copy, PARAMS)
    fails = [True]

    def late(x):
        if fails and not jax.tree.leaves(donated)[0].is_deleted():
            jax.block_until_ready(step(donated))
        if fails:
            fails.clear()
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: injected")
        return get(x)

    monkeypatch.setattr(fetch, late)
    monkeypatch.setattr(KernelProgram, "temporary_bytes", 10**9)
    assert hook(1, params=donated)
    hook.wait()
    assert "No kernel at step 1" in caplog.text
    assert not hook(1, params=PARAMS)  # no step to measure; but it compiles what will be needed
    assert hook(2, params=PARAMS)
    assert hook.latest.step == 2
    assert "at most 500 MB" in caplog.text


class OutWhenFetched:
    """The next kernels run out of memory when they are fetched, after `before` has been called."""

    def __init__(self, monkeypatch, times=1, before=lambda: None):
        get, left = jax.device_get, [None] * times

        def late(x):
            if not left:
                return get(x)
            left.pop()
            before()
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: injected")

        monkeypatch.setattr("ntk_train.monitor.program.jax.device_get", late)
        monkeypatch.setattr(KernelProgram, "temporary_bytes", 10**9)


def test_losing_donated_parameters_to_memory_ends_no_hook(monkeypatch, caplog):
    writer, now = Recorder(), []
    hook = NTKHook(f, PROBE, every_steps=1, max_failures=2, writer=writer, pictures=False)
    donate = jax.jit(lambda p: jax.tree.map(jnp.sin, p), donate_argnums=0)
    hook(0, params=PARAMS)
    hook.wait()
    OutWhenFetched(monkeypatch, 3, lambda: jax.block_until_ready(donate(now[-1])))
    for step in (1, 2, 3):
        now.append(jax.tree.map(jnp.copy, PARAMS))
        assert hook(step, params=now[-1])
        hook.wait()
        assert not hook(step, params=PARAMS)  # compiles what takes less
        for future in hook.pipeline._kernels._program._futures():
            future.result()
    assert hook.failures == 3
    assert caplog.text.count("params had been donated") == 3
    assert hook(4, params=PARAMS)
    assert hook.latest.step == 4
    assert "gives up" not in caplog.text
    failures = [scalars["ntk/failures"] for _, scalars in writer.of("write_scalars")]
    assert failures == [0, 1, 2, 3, 3]


def test_what_is_donated_before_it_is_tried_again_was_lost_to_memory(monkeypatch, caplog):
    hook = NTKHook(f, PROBE, every_steps=1, max_failures=1)
    hook(0, params=PARAMS)
    hook.wait()
    OutWhenFetched(monkeypatch)
    donated = jax.tree.map(jnp.copy, PARAMS)
    assert hook(1, params=donated)
    assert hook.pipeline._worker.wait(10)
    jax.jit(lambda p: jax.tree.map(jnp.sin, p), donate_argnums=0)(donated)
    assert hook.wait()
    assert "No kernel at step 1" in caplog.text
    assert "params had been donated" in caplog.text
    assert "Array has been deleted" not in caplog.text
    assert hook.failures == 1
    assert hook(2, params=PARAMS)
    assert hook.latest.step == 2


def test_the_references_do_not_need_the_budget(monkeypatch):
    """It changes how a kernel is computed, not what it is: curves go on."""
    Exhausted(monkeypatch, "dispatch", 1e9)
    first = NTKHook(f, PROBE, every_steps=1, implementation="structured")
    first(0, params=PARAMS)
    assert first.latest.diagnostics.convention == first.convention
    first(1, params=PARAMS)
    assert first.latest.diagnostics.scalars()["relative_change"] == 0


def test_a_plain_implementation_has_no_budget(monkeypatch, caplog):
    Exhausted(monkeypatch, "dispatch", 1e9)
    hook = NTKHook(f, PROBE, every_steps=1, implementation="jacobian_contraction")
    assert not hook(0, params=PARAMS)
    assert "Out of memory at step" not in caplog.text
    assert "fewer probe inputs" in caplog.text


@pytest.mark.parametrize(("taken", "want"), [(None, 4e9), (6 * 10**9, 3e9), (10**7, None)])
def test_half_of_what_the_program_took(taken, want):
    budget = MemoryBudget()
    assert budget.halve(taken) == (want is not None)
    assert budget.bytes == want
