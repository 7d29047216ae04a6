import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from ntk_train import main

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "ntk_train.main", *map(str, arguments)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def test_a_missing_extra_is_named(monkeypatch):
    find_spec = importlib.util.find_spec
    for gone, said in ((["grain"], "grain"), (["clu", "tensorboardX"], "clu")):
        spec = lambda name, gone=gone: None if name in gone else find_spec(name)
        monkeypatch.setattr(importlib.util, "find_spec", spec)
        with pytest.raises(SystemExit, match=rf"needs {said}: pip install 'ntk_train\[train\]'"):
            main.cli()


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_commands_with_examples(flag, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ntk-train", flag])
    with pytest.raises(SystemExit) as ended:
        main.cli()
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for said in (
        "ntk-train --config=quickstart --workdir=runs/quickstart",
        "ntk-train data prepare cifar10",
        "ntk-train report runs/quickstart",
        "cifar2, default, digits, imagenet, mini_imagenet, quickstart",
        "75 interrupted",
    ):
        assert said in text, said
    (default,) = [word for word in text.split() if word.endswith("default.py")]
    assert pathlib.Path(default).is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--help"),
        (["reprot", "x"], "Did you mean 'report'?"),
        (["--workdir=x"], "--config is missing; expected --config=quickstart"),
        (["--config=imagenet:resnet-5", "--workdir=x"], "Did you mean 'resnet-50'?"),
    ],
)
def test_a_wrong_command_is_named(arguments, said, monkeypatch):
    pytest.importorskip("clu")
    monkeypatch.setattr(sys, "argv", ["ntk-train", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.cli()
    assert str(ended.value.code).startswith("ntk-train: ")
    assert said in ended.value.code


def test_a_run_of_another_data_set_anywhere(tmp_path):
    """From a folder without the repository, by name, with a field of the other data set."""
    pytest.importorskip("clu")
    pytest.importorskip("skimage")
    arguments = ["--config=quickstart", "--workdir=here", "--config.dataset.name=lfw_faces"]
    arguments += ["--config.dataset.kwargs.test_fraction=0.5", "--config.num_train_steps=2"]
    arguments += ["--config.ntk.enabled=False", "--config.model.kwargs.features=(4,)"]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Done, 2 steps" in done.stdout
    config = json.loads((tmp_path / "here" / "config.json").read_text())
    assert config["dataset"] == {
        "kwargs": {"seed": 0, "test_fraction": 0.5},
        "name": "lfw_faces",
    }


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
        (
            "--config.optimizer.learning_rate=-0.1",
            "ntk-train: config.optimizer: learning_rate=-0.1",
        ),
        ("--workdir=", "ntk-train: workdir is empty"),
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
