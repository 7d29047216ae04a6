"""A folder is one run: one config, one process, and checkpoints that are whole."""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest

pytest.importorskip("clu")

from ntk_train.report import read_run
from ntk_train.train import ConfigError, train_and_evaluate
from ntk_train.train.checkpoint import Checkpoints
from ntk_train.train.workdir import Workdir
from tests.train.test_loop import config_of, scalars

PLAIN = {"ntk.enabled": False}


# --- the config of the steps


@pytest.fixture(scope="module")
def run_of_six(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("six") / "run"
    return train_and_evaluate(config_of(), workdir), workdir


def copied(run, tmp_path):
    shutil.copytree(run[1], tmp_path / "run")
    return tmp_path / "run"


def test_another_config_is_refused_and_named(run_of_six, tmp_path, monkeypatch, caplog):
    workdir = copied(run_of_six, tmp_path)
    saved = (workdir / "config.json").read_text()
    config = config_of(batch_size=4, num_train_steps=8)
    with monkeypatch.context() as patch:
        patch.setattr("ntk_train.train.run.Run", None)  # nothing is compiled
        with pytest.raises(ConfigError) as caught:
            train_and_evaluate(config, workdir)
    assert "\n  config.batch_size was 8 and is 4\n" in str(caught.value)
    assert "\n  config.num_train_steps was 6 and is 8\n" in str(caught.value)
    assert "--resume=force" in str(caught.value)
    assert (workdir / "config.json").read_text() == saved
    with caplog.at_level(logging.WARNING):
        assert int(train_and_evaluate(config, workdir, resume="force").step) == 8
    assert "config.batch_size was 8 and is 4" in caplog.text
    assert json.loads((workdir / "config.json").read_text())["batch_size"] == 4
    assert (workdir / "config_until_6.json").read_text() == saved


@pytest.mark.parametrize(
    "fields", [{"optimizer.name": "adam"}, {"ntk.every_steps": 0}, {"label_smoothing": 2.0}]
)
def test_a_refused_config_leaves_that_of_the_run(fields, run_of_six, tmp_path):
    workdir = copied(run_of_six, tmp_path)
    saved = (workdir / "config.json").read_text()
    fields = {"num_train_steps": 8, **fields}
    with pytest.raises(ValueError, match=r"adam|every_steps|label_smoothing"):
        train_and_evaluate(config_of(**fields), workdir, resume="force")
    assert (workdir / "config.json").read_text() == saved


def test_a_config_is_that_of_the_run_once_a_step_was_made(tmp_path, monkeypatch):
    def exhausted(*_):
        def step(state, batch):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: injected")

        return step

    with monkeypatch.context() as patch:
        patch.setattr("ntk_train.train.loop.make_train_step", exhausted)
        with pytest.raises(jax.errors.JaxRuntimeError):
            train_and_evaluate(config_of(**PLAIN), tmp_path)
    assert not (tmp_path / "config.json").exists()
    train_and_evaluate(config_of(**PLAIN, batch_size=4), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["batch_size"] == 4


def test_an_unknown_way_to_resume_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="resume='always'; expected 'same' or 'force'"):
        train_and_evaluate(config_of(), tmp_path, resume="always")


# --- one process


def hold(path, ready):
    with Workdir(path).locked():
        ready.set()
        signal.pause()


def test_a_folder_is_locked_until_its_process_is_gone(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready))
    process.start()
    try:
        assert ready.wait(120)
        with pytest.raises(ConfigError, match=rf"under way in .*process {process.pid} on"):
            train_and_evaluate(config_of(**PLAIN), tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"run.lock"}
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with Workdir(tmp_path).locked():  # as after a crash
        pass


@pytest.mark.parametrize("workdir", ["", "  "])
def test_no_folder_is_not_the_current_one(workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="workdir is empty; expected the folder of this run"):
        train_and_evaluate(config_of(), workdir)
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; expected a folder"):
        train_and_evaluate(config_of(), tmp_path / "file")


# --- what is gone is said


def test_deleted_checkpoints_are_said(run_of_six, tmp_path, capsys):
    workdir = copied(run_of_six, tmp_path)
    shutil.rmtree(workdir / "checkpoints")
    again = train_and_evaluate(config_of(), workdir)
    assert "there is no checkpoint of them: the run starts again from step 0" in (
        capsys.readouterr().out
    )
    jax.tree.map(np.testing.assert_array_equal, again, run_of_six[0])


def test_deleted_references_are_said(run_of_six, tmp_path, caplog):
    workdir = copied(run_of_six, tmp_path)
    (workdir / "ntk_references_6.npz").unlink()
    with caplog.at_level(logging.WARNING):
        train_and_evaluate(config_of(num_train_steps=8), workdir, resume="force")
    assert "ntk_references_6.npz is not there: the kernel's change starts anew" in caplog.text


def test_no_references_are_missed_where_there_were_no_kernels(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train_and_evaluate(config_of(**PLAIN, num_train_steps=3), tmp_path)
        train_and_evaluate(config_of(**PLAIN, num_train_steps=4), tmp_path, resume="force")
    assert "ntk_references" not in caplog.text


# --- a clock that is set back


def test_steps_after_the_clock_was_set_back_are_in_the_report(tmp_path):
    train_and_evaluate(config_of(num_train_steps=3), tmp_path)
    (first,) = tmp_path.glob("*tfevents*")
    first.rename(tmp_path / first.name.replace("tfevents.1", "tfevents.9"))  # in the year 2277
    train_and_evaluate(config_of(), tmp_path, resume="force")
    assert read_run(tmp_path).scalars["ntk/lambda_max"].steps.tolist() == [0, 3, 6]


# --- damage


def damaged(path):
    """The largest file of a checkpoint, with one bit flipped."""
    file = max((f for f in path.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)
    return file.name


def truncated(path):
    """All files with arrays, cut in half."""
    files = sorted(file for file in path.rglob("d/*") if file.is_file())
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return files[0].name


def emptied(path):
    """A small file of Orbax, deleted."""
    file = next(path.rglob("_METADATA"))
    file.unlink()
    return file.name


@pytest.mark.parametrize("harm", [damaged, truncated, emptied])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    harm, run_of_six, tmp_path, caplog, capsys
):
    workdir = copied(run_of_six, tmp_path)
    name = harm(workdir / "checkpoints" / "6")
    with caplog.at_level(logging.WARNING):
        again = train_and_evaluate(config_of(), workdir)
    assert "The checkpoint of step 6 is damaged and lies in" in caplog.text
    assert name in caplog.text
    assert "from step 4 of 6" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, again, run_of_six[0])
    assert (workdir / "damaged_checkpoints" / "6").is_dir()
    change = [scalars(folder)["ntk/relative_change"][6] for folder in (workdir, run_of_six[1])]
    assert change[0] == change[1]


def test_where_all_are_damaged_none_is_trained_over(run_of_six, tmp_path):
    workdir = copied(run_of_six, tmp_path)
    for step in (2, 4, 6):
        damaged(workdir / "checkpoints" / str(step))
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"All checkpoints of this run are damaged"):
            train_and_evaluate(config_of(), workdir)
    assert sorted(p.name for p in (workdir / "damaged_checkpoints").iterdir()) == ["2", "4", "6"]


def test_one_without_checksums_that_cannot_be_read_is_refused_in_short(run_of_six, tmp_path):
    workdir = copied(run_of_six, tmp_path)
    # Of truncated arrays TensorStore tells Orbax once more when that waits no longer.
    emptied(workdir / "checkpoints" / "6")
    (workdir / "checkpoint_6.sha256").unlink()
    with pytest.raises(ConfigError, match="or is damaged") as caught:
        train_and_evaluate(config_of(), workdir)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_checksums_are_those_of_sha256sum(run_of_six, tmp_path):
    workdir = copied(run_of_six, tmp_path)
    seals = {path.name for path in workdir.glob("checkpoint_*.sha256")}
    assert seals == {f"checkpoint_{step}.sha256" for step in (2, 4, 6)}
    for line in (workdir / "checkpoint_6.sha256").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((workdir / name).read_bytes()).hexdigest() == digest
    if shutil.which("sha256sum"):
        check = ["sha256sum", "--check", "--quiet", "checkpoint_6.sha256"]
        assert subprocess.run(check, cwd=workdir).returncode == 0
        damaged(workdir / "checkpoints" / "6")
        done = subprocess.run(check, cwd=workdir, capture_output=True)
        assert done.returncode == 1


def test_any_flipped_byte_of_the_references_costs_the_curves_alone(run_of_six, tmp_path, caplog):
    workdir = copied(run_of_six, tmp_path)
    path = workdir / "ntk_references_6.npz"
    whole = path.read_bytes()
    with Checkpoints(workdir / "checkpoints", keep=3) as checkpoints:
        kept = checkpoints.restore_kept(6).to_dict()
        for place in range(0, len(whole), 61):
            content = bytearray(whole)
            content[place] ^= 4
            path.write_bytes(content)
            found = checkpoints.restore_kept(6).to_dict()
            # Times of the archive may differ, and numbers may not.
            for name, array in found.items():
                np.testing.assert_array_equal(array, kept[name])
    assert "cannot be read, the kernel's change starts anew" in caplog.text
