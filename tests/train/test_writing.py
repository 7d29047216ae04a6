"""The trainer without clu and TensorFlow writes the same tags, by tensorboardX."""

import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("orbax.checkpoint")

from ntk_train.train.writing import NoWriter, Speed, make_writer
from tests.monitor.test_event_files_without_tensorflow import read

ROOT = pathlib.Path(__file__).parents[2]


def command_line(blocked, workdir):
    program = f"""
import os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
sys.modules.update(dict.fromkeys({blocked!r}))
from ntk_train import main
main.cli()
"""
    command = [sys.executable, "-c", program, "--config=configs/default.py:fcn"]
    command += [f"--workdir={workdir}", "--config.num_train_steps=4", "--config.batch_size=8"]
    command += ["--config.ntk.probe_size=6", "--config.ntk.every_steps=2"]
    command += ["--config.eval_every_steps=2", "--config.log_every_steps=2"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_trainer_runs_without_tensorflow_and_clu(tmp_path):
    pytest.importorskip("tensorboardX")
    for name, blocked in (("with", []), ("without", ["tensorflow", "clu"])):
        done = command_line(blocked, tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert "Done, 4 steps" in done.stdout
    whole, lean = (read(tmp_path / name) for name in ("with", "without"))
    steps = [
        {tag.removesuffix("/text_summary"): [step for step, _ in found] for tag, (_, found) in of}
        for of in (lean.items(), whole.items())
    ]
    assert steps[0] == steps[1]
    for tag in ("train_loss", "eval_accuracy", "ntk/lambda_max", "ntk/relative_change"):
        values = [[float(value) for _, value in found[tag][1]] for found in (lean, whole)]
        assert values[0] == values[1]


def test_a_missing_writer_is_named(tmp_path, monkeypatch):
    for name in ("clu", "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"ntk_train\[tensorboard\]"):
        make_writer(tmp_path)


def test_the_speed_is_written_now_and_then_and_at_the_end(monkeypatch):
    written, now = [], iter([0.0, 10.0, 11.0, 15.0, 16.0, 17.0])

    class Writer(NoWriter):
        def write_scalars(self, step, values):
            written.append((step, values["steps_per_sec"], values["uptime"]))

    monkeypatch.setattr("ntk_train.train.writing.time.monotonic", lambda: next(now))
    speed = Speed(num_train_steps=9, writer=Writer(), every_secs=4.0)
    for step in (3, 4, 8, 8, 9):
        speed(step)
    assert written == [(8, 1.0, 15.0), (9, 0.5, 17.0)]
