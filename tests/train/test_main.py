import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from ntk_train import main

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, "-m", "ntk_train.main", *map(str, arguments)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def test_a_missing_extra_is_named(monkeypatch):
    find_spec = importlib.util.find_spec
    for gone, said in ((["grain"], "grain"), (["clu", "tensorboardX"], "clu")):
        spec = lambda name, gone=gone: None if name in gone else find_spec(name)
        monkeypatch.setattr(importlib.util, "find_spec", spec)
        with pytest.raises(SystemExit, match=rf"needs {said}: pip install 'ntk_train\[train\]'"):
            main.cli()


def test_a_run_prints_its_table_and_where_to_look(tmp_path):
    pytest.importorskip("clu")
    done = run(
        "--config=configs/quickstart.py",
        f"--workdir={tmp_path}",
        "--config.num_train_steps=2",
        "--config.ntk.probe_size=4",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["step", "loss"]
    assert [line.split()[0] for line in lines[1:3]] == ["0", "2"]
    assert lines[-1].endswith(f"tensorboard --logdir {tmp_path}")
    assert list(tmp_path.glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("--config.optimizer.nam=sgd", 'Did you mean "name"'),
        ("--config.dataset.kwargs.classes=(3, 12)", "ntk-train: config.dataset: classes=(3, 12)"),
    ],
)
def test_errors_of_the_user_end_with_the_message(argument, text, tmp_path):
    pytest.importorskip("clu")
    done = run("--config=configs/quickstart.py", f"--workdir={tmp_path / 'run'}", argument)
    assert done.returncode == 1
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()
