"""Whatever goes wrong in the diagnostics, a run ends with the parameters it has without them."""

import logging
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("clu")

from clu import metric_writers

from ntk_train.configs import default
from ntk_train.monitor.pipeline import Pipeline
from ntk_train.monitor.program import KernelProgram
from ntk_train.train import InterruptedRunError, Interruption, train_and_evaluate
from ntk_train.train.loop import Run
from tests.train.test_loop import scalars


def config_of(**fields):
    config = default.get_config("fcn")
    config.num_train_steps = config.eval_every_steps = 8
    config.batch_size = 8
    config.model.kwargs.widths = (8,)
    config.ntk.probe_size = 6
    config.ntk.every_steps = 1
    config.log_every_steps = config.checkpoint_every_steps = 2
    config.update_from_flattened_dict(fields)
    return config


class LoopError(Exception):
    """An exception in the loop that is not ours."""


def without_the_hook(workdir):
    return train_and_evaluate(config_of(**{"ntk.enabled": False}), workdir)


@pytest.fixture
def faults(monkeypatch):
    """NaN parameters at step 1, no memory at steps 4 and 7, a writer that fails at histograms."""
    at_step, start = Pipeline.at_step, KernelProgram.start
    now = []

    def nan_at_one(self, request, due, params, model_state):
        now.append(request.step)
        if request.step == 1:
            params = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
        return at_step(self, request, due, params, model_state)

    def exhausted(self, *args, **kwargs):
        if now[-1] in (4, 7):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: injected")
        return start(self, *args, **kwargs)

    def full(self, step, arrays, num_buckets=None):
        raise OSError("disk full")

    monkeypatch.setattr(Pipeline, "at_step", nan_at_one)
    monkeypatch.setattr(KernelProgram, "start", exhausted)
    monkeypatch.setattr(metric_writers.AsyncMultiWriter, "write_histograms", full)


def test_a_run_with_faults_ends_with_the_parameters_of_one_without_the_hook(
    faults, tmp_path, monkeypatch, caplog
):
    want = without_the_hook(tmp_path / "plain")
    after, workdir, config = Run._after, tmp_path / "faults", config_of()

    def interrupted(self, step):
        after(self, step)
        if step == 3 and not interruptions:
            interruptions.append(step)
            raise LoopError
        if step == 5 and len(interruptions) == 1:
            interruptions.append(step)
            os.kill(os.getpid(), signal.SIGTERM)

    interruptions = []
    monkeypatch.setattr(Run, "_after", interrupted)
    with caplog.at_level(logging.WARNING):
        with pytest.raises(LoopError):
            train_and_evaluate(config, workdir)
        with Interruption() as interruption, pytest.raises(InterruptedRunError) as ended:
            train_and_evaluate(config, workdir, interruption=interruption)
        got = train_and_evaluate(config, workdir)

    assert "SIGTERM at step 5 of 8, kept in" in str(ended.value)
    assert (workdir / "checkpoints" / "5").is_dir()
    assert interruptions == [3, 5]
    jax.tree.map(np.testing.assert_array_equal, got, want)
    # What was lost is said, and all the rest is there.
    for said in (
        "No kernel at step 1 in ntk",
        "NonFiniteKernelError",
        "No kernel at step 4 in ntk",
        "RESOURCE_EXHAUSTED",
        "write_histograms of ntk failed",
        "disk full",
    ):
        assert said in caplog.text, said
    found = scalars(workdir)
    # 3 was measured twice, before the exception and after; 5 was flushed by SIGTERM.
    assert set(found["ntk/lambda_max"]) == {0, 2, 3, 5, 6, 8}
    assert np.all(np.isfinite(list(found["ntk/lambda_max"].values())))
    assert found["ntk/failures"][1] >= 1
    assert found["ntk/relative_change"][8] > 0
