"""A run ends with an exit code, one message, and all that was made until then."""

import errno
import gc
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

pytest.importorskip("clu")

from ntk_train.train import (
    InterruptedRunError,
    Interruption,
    NonFiniteLossError,
    NotSavedError,
    train_and_evaluate,
)
from ntk_train.train.checkpoint import Checkpoints
from ntk_train.train.loop import Run
from tests.train.test_loop import config_of, scalars

ROOT = pathlib.Path(__file__).parents[2]
PLAIN = {"ntk.enabled": False}


def steps_saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


# --- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_within_a_callback_of_the_collector_is_not_lost(number):
    """Python prints and drops what a handler raises there; a flag stays."""
    before = signal.getsignal(number)

    def callback(phase, info):
        if phase == "start":
            os.kill(os.getpid(), number)
            sum(range(1000))  # the handler runs between two instructions of this

    with Interruption() as interruption:
        assert interruption.signal is None
        gc.callbacks.append(callback)
        try:
            gc.collect(0)
        finally:
            gc.callbacks.remove(callback)
        assert interruption.signal == number
        # A second one is the system's, which ends the program at once.
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(number) == before


def test_an_interrupted_run_is_saved_at_its_step_and_goes_on_from_there(tmp_path, monkeypatch):
    fields = PLAIN | {"checkpoint_every_steps": 100}
    whole = train_and_evaluate(config_of(**fields), tmp_path / "whole")
    after = Run._after

    def interrupted(self, step):
        after(self, step)
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "_after", interrupted)
    with Interruption() as asked, pytest.raises(InterruptedRunError, match=r"step 5 of 6, kept in"):
        train_and_evaluate(config_of(**fields), tmp_path / "run", interruption=asked)
    assert steps_saved(tmp_path / "run") == [5]
    assert max(scalars(tmp_path / "run")["train_loss"]) == 5
    again = train_and_evaluate(config_of(**fields), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_a_signal_before_the_first_step_leaves_no_step(tmp_path):
    asked = Interruption()
    asked.signal = signal.SIGTERM
    with pytest.raises(InterruptedRunError, match="SIGTERM at step 0 of 6, nothing of it"):
        train_and_evaluate(config_of(**PLAIN), tmp_path, interruption=asked)
    assert steps_saved(tmp_path) == []
    assert not (tmp_path / "config.json").exists()


def test_a_signal_after_the_last_step_is_too_late(tmp_path, monkeypatch):
    after = Run._after

    def interrupted(self, step):
        after(self, step)
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Run, "_after", interrupted)
    with Interruption() as asked:
        assert int(train_and_evaluate(config_of(**PLAIN), tmp_path, interruption=asked).step) == 6


SMALL = ["--config=configs/default.py", "--config.model.kwargs.features=(4,)"]
SMALL += ["--config.ntk.enabled=False", "--config.eval_every_steps=1000000"]


def command(workdir, *arguments):
    return [sys.executable, "-m", "ntk_train.main", *SMALL, f"--workdir={workdir}", *arguments]


def environment():
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.heavy)]
)
def test_a_signal_to_the_program(number, tmp_path):
    arguments = ["--config.num_train_steps=10000000", "--config.checkpoint_every_steps=10000000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(
        command(tmp_path, *arguments), text=True, cwd=ROOT, env=environment(), **pipes
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "config.json").exists():  # the first step has been made
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, err
    (step,) = steps_saved(tmp_path)
    assert step > 0
    assert f"ended by {number.name} at step {step} of 10000000, kept in {tmp_path}" in err
    assert "Traceback" not in err
    assert "Done" not in out


# --- a full disk


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    allocate, sizes = os.posix_fallocate, []

    def full(descriptor, start, size):
        sizes.append(size)
        if len(sizes) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(descriptor, start, size)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NotSavedError) as caught:
        train_and_evaluate(config_of(), tmp_path)
    assert "checkpoint of step 4 could not be saved" in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert "Kept is that of step 2" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert steps_saved(tmp_path) == [2]
    saved = sum(f.stat().st_size for f in (tmp_path / "checkpoints").rglob("*") if f.is_file())
    assert sizes[0] > saved  # it asks for as much as a checkpoint takes
    again = train_and_evaluate(config_of(), tmp_path)
    assert int(again.step) == 6


def test_what_orbax_could_not_write_is_taken_away_again(tmp_path, monkeypatch):
    fail = iter([False, True, False, False])
    write = np.savez

    def savez(path, **arrays):
        if next(fail):
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, **arrays)

    monkeypatch.setattr(np, "savez", savez)
    with pytest.raises(NotSavedError, match="Kept is that of step 2"):
        train_and_evaluate(config_of(), tmp_path)
    assert steps_saved(tmp_path) == [2]
    assert {p.name for p in tmp_path.glob("ntk_references_*")} == {"ntk_references_2.npz"}


def can_mount():
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount")


@pytest.mark.heavy
@pytest.mark.skipif(not can_mount(), reason="a small disk is mounted, which takes root")
def test_a_small_disk(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)])
    if mounted.returncode:
        pytest.skip("a container that may not mount")
    try:
        done = subprocess.run(
            command(
                tmp_path / "run",
                "--config.num_train_steps=40",
                "--config.checkpoint_every_steps=2",
                "--config.keep_checkpoints=100",
                "--config.model.kwargs.features=(32,)",
            ),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(),
        )
        saved = steps_saved(tmp_path / "run")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert done.returncode == 74, done.stderr
    assert saved
    (line,) = done.stderr.splitlines()
    assert f"Kept is that of step {saved[-1]}" in line


# --- divergence


def test_divergence_leaves_the_checkpoint_before_it_to_go_on_from(tmp_path, monkeypatch):
    """At step 5 the rate is 1e38; 2 and 4 are checkpoints, 0 and 3 have kernels."""
    fields = {
        "optimizer.name": "sgd",
        "optimizer.schedule": "constant",
        "optimizer.warmup_steps": 0,
    }
    with monkeypatch.context() as patch:
        patch.setattr(
            "ntk_train.train.setup.make_schedule",
            lambda *_: lambda step: jax.numpy.where(step < 4, 1e-3, 1e38),
        )
        with pytest.raises(NonFiniteLossError) as caught:
            train_and_evaluate(config_of(**fields, keep_checkpoints=1), tmp_path)
    text = str(caught.value)
    found = scalars(tmp_path)
    condition = found["ntk/condition_number"][3]
    for said in (
        "in step 6",  # the parameters of step 5 are large and finite, its loss is not
        "at a learning rate of 1e+38",
        f"The training loss was {found['train_loss'][5]:.4g} before",
        f"kernel at step 3: lambda_max {found['ntk/lambda_max'][3]:.3g}, "
        f"condition_number {condition:.3g}",
        "goes on from step 4",
        str(tmp_path / "diverged" / "5"),
    ):
        assert said in text, (said, text)
    assert steps_saved(tmp_path) == [4]
    assert (tmp_path / "diverged" / "5").is_dir()
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        kept = checkpoints.restore_kept(4)
    assert kept.references["train"].previous_step == 3
    assert np.all(np.isfinite(kept.references["train"].previous))
    # With a lower rate the same folder ends well, and the kernel's curves go on.
    state = train_and_evaluate(config_of(**fields, keep_checkpoints=1), tmp_path, resume="force")
    assert int(state.step) == 6
    assert not state.diverged
    assert np.isfinite(scalars(tmp_path)["ntk/relative_change"][6])


def test_divergence_without_a_checkpoint_says_that_there_is_none(tmp_path):
    fields = {"optimizer.learning_rate": 1e30, "optimizer.name": "sgd", **PLAIN}
    config = config_of(**fields, **{"optimizer.warmup_steps": 0, "checkpoint_every_steps": 100})
    for _ in range(2):
        with pytest.raises(NonFiniteLossError, match="command starts again from step 0"):
            train_and_evaluate(config, tmp_path)
    assert steps_saved(tmp_path) == []
