"""Whatever goes wrong in the diagnostics, a run ends with the parameters it has without them."""

import logging
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("clu")

from clu import metric_writers

from configs import default
from ntk_train import main
from ntk_train.monitor.pipeline import Pipeline
from ntk_train.monitor.program import KernelProgram
from ntk_train.train import train_and_evaluate
from ntk_train.train.loop import _Run
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
    after, workdir, config = _Run._after, tmp_path / "faults", config_of()

    def interrupted(self, step):
        after(self, step)
        if step == 3 and not interruptions:
            interruptions.append(step)
            raise LoopError
        if step == 5 and len(interruptions) == 1:
            interruptions.append(step)
            os.kill(os.getpid(), signal.SIGTERM)

    interruptions = []
    monkeypatch.setattr(_Run, "_after", interrupted)
    handler = signal.signal(signal.SIGTERM, main._terminated)
    try:
        with caplog.at_level(logging.WARNING):
            with pytest.raises(LoopError):
                train_and_evaluate(config, workdir)
            with pytest.raises(SystemExit) as ended:
                train_and_evaluate(config, workdir)
            got = train_and_evaluate(config, workdir)
    finally:
        signal.signal(signal.SIGTERM, handler)

    assert ended.value.code == 143
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


@pytest.mark.heavy
def test_sigterm_in_a_process_of_its_own(tmp_path):
    """The command line ends with 143, has written its events, and goes on when called again."""
    command = [sys.executable, "-m", "ntk_train.main", "--config=configs/default.py"]
    command += [f"--workdir={tmp_path}", "--config.num_train_steps=1000000"]
    command += ["--config.checkpoint_every_steps=20", "--config.ntk.every_steps=20"]
    command += ["--config.eval_every_steps=20", "--config.model.kwargs.features=(4,)"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("checkpoints/[0-9]*")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, out
    assert "goes on from the last checkpoint" in out
    assert 0 in scalars(tmp_path)["ntk/lambda_max"]
