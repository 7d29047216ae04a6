"""Several probes at the same steps: each as if it were alone."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import KernelInputError, NTKHook, ntk
from ntk_train.monitor import HookSet, hooks_for, split_by_class
from ntk_train.monitor.pipeline import Pipeline
from tests.monitor.test_hook import PARAMS, PROBE, Recorder, f

OTHER = jnp.cos(jnp.arange(12.0)).reshape(4, 3)
LABELS = np.array([0, 0, 1, 1, 1, 2])


def moved(step):
    return jax.tree.map(lambda leaf: leaf * (1 + 0.1 * step), PARAMS)


def test_each_probe_is_measured_as_if_it_were_alone():
    writer, alone = Recorder(), Recorder()
    probes = {"train": PROBE, "test": OTHER}
    options = {"every_steps": 2, "pictures": False}
    with hooks_for(f, probes, labels={"train": LABELS}, writer=writer, **options) as hooks:
        ran = [hooks(step, params=moved(step)) for step in range(5)]
    assert ran == [True, False, True, False, True]
    single = NTKHook(f, OTHER, writer=alone, prefix="ntk_test", **options)
    for step in range(5):
        single(step, params=moved(step))
    single.close()
    own = {"seconds", "kernel_seconds", "blocked_seconds", "time_share"}
    own |= {"trace_seconds", "compile_seconds"}
    own = {f"ntk_test/{name}" for name in own}

    def of_test(scalars):
        return [
            (step, {k: v for k, v in values.items() if k.startswith("ntk_test/") and k not in own})
            for step, values in scalars
            if any(name.startswith("ntk_test/") for name in values)
        ]

    got, want = (of_test(of.of("write_scalars")) for of in (writer, alone))
    assert [step for step, _ in got] == [0, 2, 4]
    np.testing.assert_equal(got, want)  # NaN equals NaN
    assert set(hooks.latest) == set(hooks.references) == {"train", "test"}
    assert hooks.latest["test"].kernel.shape == (4, 4)
    tags = {tag for _, values in writer.of("write_scalars") for tag in values}
    assert "ntk/kernel_target_alignment" in tags  # the first has the bare prefix, and labels
    assert "ntk_test/kernel_target_alignment" not in tags
    assert len(writer.of("write_hparams")) == 1


def test_references_go_on_by_name():
    probes = {"train": PROBE, "test": OTHER}
    first = hooks_for(f, probes, every_steps=1)
    first(0, params=PARAMS)
    second = hooks_for(f, probes, every_steps=1, references=first.references)
    second(1, params=moved(1))
    for name, probe in probes.items():
        before, now = (np.asarray(ntk(f, p, probe, outputs="trace")) for p in (PARAMS, moved(1)))
        want = np.linalg.norm(now - before) / np.linalg.norm(before)
        found = second.latest[name].diagnostics.scalars()
        assert found["relative_change"] == pytest.approx(want, rel=1e-6)
        assert second.references[name].initial_step == 0


def test_max_overhead_bounds_the_time_of_all_together():
    options = {"every_steps": 1, "max_overhead": 0.01, "pictures": False}
    hooks = hooks_for(f, {"a": PROBE, "b": OTHER}, **options)
    assert hooks(0, 0.0, params=PARAMS)
    hooks.wait()
    seconds = [found.seconds for found in hooks.latest.values()]
    assert not hooks(1, 0.99 * sum(seconds) / 0.01, params=PARAMS)
    assert hooks(2, 1e9, params=PARAMS)
    hooks.wait()


def test_a_set_leaves_its_hooks_as_they_are():
    alone = {name: NTKHook(f, PROBE, every_steps=step) for name, step in (("a", 2), ("b", 3))}
    before = {name: (hook.schedule, hook.overhead) for name, hook in alone.items()}
    hooks = HookSet(alone)
    assert [hooks(step, params=PARAMS) for step in range(4)] == [True, False, True, False]
    assert {name: (hook.schedule, hook.overhead) for name, hook in alone.items()} == before
    assert [found.step for found in hooks.latest.values()] == [2, 2]


def test_one_that_fails_takes_no_other_along(caplog):
    broken = NTKHook(lambda p, x: f(p, x) * 1j, PROBE, every_steps=1, prefix="broken")
    hooks = HookSet({"broken": broken, "works": NTKHook(f, PROBE, every_steps=1)})
    assert hooks(0, params=PARAMS)
    assert set(hooks.latest) == {"works"}
    assert hooks.failures == 1
    assert "No kernel at step 0 in broken" in caplog.text
    assert not hooks(jnp.arange(2), params=PARAMS)
    assert hooks.failures == 2


def test_a_stop_of_one_is_a_stop_of_all():
    hooks = hooks_for(
        f,
        {"a": PROBE, "b": PROBE[:1]},
        every_steps=1,
        stop_when=lambda found: len(found.kernel) == 1 and "one example",
    )
    hooks(3, params=PARAMS)
    hooks.wait()
    assert hooks.should_stop
    assert hooks.stop_reason == "b: one example at step 3"


def test_when_all_have_given_up_the_step_is_not_waited_for():
    class OnTheDevice(int):
        def __int__(self):
            waited.append(self)
            return int.__int__(self)

    broken, waited = (lambda p, x: f(p, x) * 1j), []
    hooks = hooks_for(broken, {"a": PROBE, "b": OTHER}, every_steps=1, max_failures=1)
    assert not hooks(OnTheDevice(0), params=PARAMS)
    assert [hook.gave_up for hook in hooks.values()] == [True, True]
    assert waited == [0]
    assert not hooks(OnTheDevice(1), params=PARAMS)
    assert waited == [0]


def test_the_time_to_wait_and_to_close_is_that_of_all_together(monkeypatch):
    def slow(self, timeout):
        given.append(timeout)
        time.sleep(0.3)
        return True

    hooks, given = hooks_for(f, {"a": PROBE, "b": OTHER, "c": PROBE}, every_steps=1), []
    for method in ("wait", "close"):
        monkeypatch.setattr(Pipeline, method, slow)
        getattr(hooks, method)(0.5)
        first, second, third = given[-3:]
        assert 0.4 < first <= 0.5
        assert second <= 0.2
        assert third == 0
    monkeypatch.setattr(Pipeline, "wait", lambda self, timeout: timeout is None)
    assert hooks.wait()


def test_references_of_no_probe_are_named(caplog):
    first = hooks_for(f, {"train": PROBE, "old": OTHER}, every_steps=1)
    first(0, params=PARAMS)
    hooks_for(f, {"train": PROBE, "test": OTHER}, every_steps=1, references=first.references)
    assert "There are references of ['old'], which is no probe here" in caplog.text


def test_a_probe_by_class():
    probes = split_by_class({"x": PROBE}, LABELS)
    assert list(probes) == ["class_0", "class_1", "class_2"]
    np.testing.assert_array_equal(probes["class_1"]["x"], PROBE[2:5])
    assert sum(len(probe["x"]) for probe in probes.values()) == len(PROBE)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: HookSet({}), "hooks is empty"),
        (lambda: hooks_for(f, {}, every_steps=1), "hooks is empty"),
        (lambda: hooks_for(f, {"a": PROBE}, labels={"b": LABELS}, every_steps=1), r"has \['b'\]"),
        (lambda: hooks_for(f, {"a": PROBE, "layers": OTHER}, every_steps=1), r"has \['layers'\]"),
        (lambda: hooks_for(f, dict.fromkeys(["a", "b", "b_layers"], PROBE), every_steps=1), "b_la"),
        (lambda: split_by_class(PROBE, LABELS[:3]), "one class, an integer, for each"),
        (lambda: split_by_class(PROBE, LABELS / 2), "one class, an integer, for each"),
    ],
)
def test_what_does_not_fit_is_refused(make, match):
    with pytest.raises(KernelInputError, match=match):
        make()
