"""A run of several processes sees the batches of a run of one, and ends with the same numbers."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("clu")

from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from ntk_train.data import load_dataset
from ntk_train.data.pipeline import eval_batches, train_batches
from ntk_train.train import ConfigError, loop, placement, train_and_evaluate
from tests.train.test_loop import config_of, scalars

ROOT = pathlib.Path(__file__).parents[2]
FIELDS = {"ntk.enabled": False, "num_train_steps": 3, "eval_batch_size": 64}


def batches_of(workdir, monkeypatch, process_index, process_count):
    """What the steps of a run get, if it is that process."""
    seen = {"train": [], "eval": []}

    def make_train_step(*args):
        def step(state, batch):
            seen["train"].append(batch)
            return state, {"loss": 0.0, "accuracy": 0.0, "diverged": False}

        return step

    def make_eval_step(*args):
        def step(params, model_state, batch):
            seen["eval"].append(batch)
            return {"loss": 0.0, "accuracy": 0.0, "weight": 1.0}

        return step

    def placed(self):
        self.process_index, self.process_count = process_index, process_count
        self.replicated = None

    monkeypatch.setattr(placement.Placement, "__init__", placed)
    monkeypatch.setattr(loop, "make_train_step", make_train_step)
    monkeypatch.setattr(loop, "make_eval_step", make_eval_step)
    train_and_evaluate(config_of(**FIELDS), workdir)
    return seen


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_parts_of_processes_are_the_batches_of_one(count, tmp_path, monkeypatch):
    config = config_of(**FIELDS)
    dataset = load_dataset(config.dataset.name, **config.dataset.kwargs)
    training = train_batches(dataset.train, batch_size=8, seed=config.seed)
    evaluation = list(eval_batches(dataset.test, batch_size=64))
    whole = {"train": [next(training) for _ in range(3)], "eval": 2 * evaluation}
    parts = [batches_of(tmp_path / f"{p}", monkeypatch, p, count) for p in range(count)]
    for what, expected in whole.items():
        assert {len(part[what]) for part in parts} == {len(expected)}
        for step, batch in enumerate(expected):
            for key, value in batch.items():
                got = np.concatenate([part[what][step][key] for part in parts])
                np.testing.assert_array_equal(got, value)


def test_a_batch_that_devices_cannot_share_is_refused():
    placed = placement.Placement()
    placed.check(config_of())
    placed.process_count = 3
    placed.replicated = NamedSharding(AbstractMesh((3,), ("data",)), PartitionSpec())
    with pytest.raises(ConfigError, match=r"config.batch_size=8 .* 3 devices of 3 processes"):
        placed.check(config_of())


def run(workdir, process_count, *arguments, **kwargs):
    """What so many processes print that finish, as `started`."""
    processes = started(workdir, process_count, *arguments, **kwargs)
    ended = output_of(processes)
    for process, (_, errors) in zip(processes, ended):
        assert process.returncode == 0, errors
    # Gloo, which joins them on a CPU, says so.
    lines = [out.splitlines(keepends=True) for out, _ in ended]
    return ["".join(line for line in out if not line.startswith("[Gloo]")) for out in lines]


def output_of(processes):
    try:
        return [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()


def started(workdir, process_count, *arguments, job=0, program=("-m", "ntk_train.main")):
    """So many processes of a run, in the environment of a job of Slurm."""
    command = [
        sys.executable, *program, "--config=configs/default.py:cnn",
        f"--workdir={workdir}", "--config.model.kwargs.norm=batch", "--config.batch_size=8",
        "--config.model.kwargs.features=(4,)", "--config.model.kwargs.conv_bias=False",
        "--config.ntk.probe_size=6",
        "--config.log_every_steps=1", "--config.ntk.every_steps=2", "--config.eval_every_steps=2",
        "--config.checkpoint_every_steps=2", "--config.eval_batch_size=64", *arguments,
    ]  # fmt: skip
    slurm = {"SLURM_JOB_ID": job, "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": 1}
    processes = []
    for index in range(process_count):
        own = {"SLURM_NTASKS": process_count, "SLURM_PROCID": index, "SLURM_LOCALID": index}
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        if process_count > 1:
            environment |= {name: str(value) for name, value in (slurm | own).items()}
        processes.append(
            subprocess.Popen(
                [*command, f"--distributed={process_count > 1}"],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


@pytest.mark.heavy
@pytest.mark.parametrize(("count", "lengths"), [(2, (2, 4)), (4, (3,))])
def test_processes_end_with_the_numbers_of_one(count, lengths, tmp_path):
    for steps in lengths:  # the second goes on where the first ended
        length = [f"--config.num_train_steps={steps}", "--resume=force"]
        run(tmp_path / "one", 1, *length)
        job = 10 * count + steps  # which gives the port
        run(tmp_path / "many", count, *length, job=job)
    one, many = (scalars(tmp_path / name) for name in ("one", "many"))
    for tag in ("train_loss", "train_accuracy", "eval_loss", "eval_accuracy", "ntk/lambda_max"):
        assert one[tag].keys() == many[tag].keys()
        for step, value in one[tag].items():
            np.testing.assert_allclose(many[tag][step], value, rtol=1e-3, err_msg=f"{tag} {step}")
    assert len(list((tmp_path / "many").glob("events*"))) == len(
        lengths
    )  # of the first process alone
    probes = [json.loads((tmp_path / name / "probe.json").read_text()) for name in ("one", "many")]
    assert probes[0] == probes[1]


# The processes would stop at different steps, the last never.
DISAGREE = """
import jax
from ntk_train import main
from ntk_train.train import setup
late = lambda found: jax.process_index() == 0 and found.step >= 2 and "late"
setup._stop_when = lambda bound: late if bound else None
main.cli()
"""


@pytest.mark.heavy
def test_processes_stop_at_the_same_step_and_one_of_them_says_so(tmp_path):
    arguments = ["--config.num_train_steps=6", "--config.ntk.stop_above_condition_number=1.0"]
    first, second = run(tmp_path / "run", 2, *arguments, job=62, program=("-c", DISAGREE))
    assert "Stopped, train: late at step 2." in first
    assert second == ""
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    first, second = run(tmp_path / "run", 2, *arguments, job=63)  # again, as one
    assert first.startswith("Stopped, train: late at step 2.")
    assert second == ""


@pytest.mark.heavy
def test_a_signal_to_one_process_ends_all_at_the_same_step(tmp_path):
    processes = started(tmp_path, 2, "--config.num_train_steps=100000", job=64)
    deadline = time.monotonic() + 120
    while not (tmp_path / "config.json").exists():  # the first step has been made
        assert time.monotonic() < deadline
        assert not any(process.poll() for process in processes)
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    ended = output_of(processes)
    assert [process.returncode for process in processes] == [75, 75], ended
    latest = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    for _, errors in ended:
        assert f"at step {latest} of 100000, kept in" in errors
