import os
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.error

import pytest

pytest.importorskip("tensorflow_datasets")

from ntk_train.data import commands
from ntk_train.data.records import LABELS
from tests.data import archives

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments, environment=()):
    command = [sys.executable, "-m", "ntk_train.main", "data", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | dict(environment)
    )


def test_prepare_then_check_and_both_find_what_is_there(tmp_path):
    manual, data = tmp_path / "manual", tmp_path / "tfds"
    manual.mkdir()
    images = {s: {n: archives.photo(n) for n in (1, 2)} for s in archives.SYNSETS}
    archives.train_tar(manual / "ILSVRC2012_img_train.tar", images)
    archives.val_tar(manual / "ILSVRC2012_img_val.tar", 3)
    # The check of the disk is for the real size; the machine of the test may be smaller.
    program = (
        "import sys; from ntk_train.data import commands; commands._check_space = print; "
        "sys.exit(commands.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "prepare", "imagenet2012"]
    command += [f"--data_dir={data}", f"--manual_dir={manual}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train: 8 images, 1000 classes" in done.stdout
    assert done.stdout.splitlines()[-1] == f"Ready: {data / 'imagenet2012' / '5.1.0'}"
    assert "Generating train examples" in done.stderr  # the progress
    for split in ("train", "validation"):
        assert (data / "imagenet2012" / "5.1.0" / LABELS.format(split)).exists()
    again = run("prepare", "imagenet2012", "--data_dir", data)
    assert again.returncode == 0
    assert "is prepared already" in again.stdout
    check = run("check", "imagenet2012", environment={"TFDS_DATA_DIR": str(data)})
    assert check.returncode == 0, check.stdout
    assert "train: 8 images of (224, 224, 3), 8 decoded" in check.stdout


@pytest.mark.parametrize("command", ["check", "prepare"])
def test_what_is_missing_is_told_at_once(command, tmp_path):
    start = time.monotonic()
    done = run(command, "imagenet2012", "--data_dir", tmp_path)
    assert time.monotonic() - start < 15  # the interpreter's start on a busy machine included
    assert done.returncode == 1
    assert "Put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into a folder" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_what_needs_no_preparing(name, capsys):
    assert commands.main(["prepare", name]) == 0
    assert "needs no preparing" in capsys.readouterr().out
    assert commands.main(["check", name]) == 0
    assert "classes: " in capsys.readouterr().out


def test_manual_files_are_looked_for_first(tmp_path, capsys):
    (tmp_path / "ILSVRC2012_img_val.tar").touch()
    arguments = ["prepare", "imagenet2012", "--data_dir", str(tmp_path)]
    assert commands.main([*arguments, "--manual_dir", str(tmp_path)]) == 1
    assert f"{tmp_path} has no: ILSVRC2012_img_train.tar." in capsys.readouterr().out


def test_a_full_disk_is_told_before_anything_is_done(tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=2**27)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert commands.main(["prepare", "cifar10", "--data_dir", str(tmp_path / "new")]) == 1
    text = capsys.readouterr().out
    assert "cifar10 needs 0.30 GiB" in text
    assert "0.12 GiB free. Make room" in text
    assert not list(tmp_path.iterdir())


def test_a_missing_network_is_told_before_tfds_waits_for_it(tmp_path, capsys, monkeypatch):
    asked = []

    def refuse(url, timeout):
        asked.append((url, timeout))
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(commands.urllib.request, "urlopen", refuse)
    assert commands.main(["prepare", "cifar2", "--data_dir", str(tmp_path)]) == 1
    assert "kriz/cifar.html cannot be reached" in capsys.readouterr().out
    for name in ("ILSVRC2012_img_train.tar", "train.csv", "val.csv"):
        (tmp_path / name).touch()
    arguments = ["prepare", "mini_imagenet", "--data_dir", str(tmp_path)]
    assert commands.main([*arguments, "--manual_dir", str(tmp_path)]) == 1
    assert "miniImagenet/test.csv cannot be reached" in capsys.readouterr().out
    assert all(timeout < 5 for _, timeout in asked)


def test_a_failing_builder_ends_with_its_message(tmp_path, capsys):
    for name in ("ILSVRC2012_img_train.tar", "train.csv", "val.csv", "test.csv"):
        (tmp_path / name).touch()
    arguments = ["prepare", "mini_imagenet", "--data_dir", str(tmp_path)]
    assert commands.main([*arguments, "--manual_dir", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "train.csv: sha256 is e3b0c442" in text
    assert "ntk-train data prepare mini_imagenet" in text


def test_unknown_names_and_damaged_images_are_told(bad_images, tmp_path, capsys):
    assert commands.main(["check", "cifar11"]) == 1
    assert "Did you mean 'cifar10'" in capsys.readouterr().out
    shutil.move(str(bad_images), str(tmp_path / "cifar10" / "3.0.2"))
    assert commands.main(["check", "cifar10", "--data_dir", str(tmp_path)]) == 1
    assert "split 'train', record 2: UnidentifiedImageError" in capsys.readouterr().out
