"""Fields are set on the command line as they are in a config file."""

import re

import pytest

pytest.importorskip("ml_collections")

from ntk_train.configs import NAMES, NoConfigError, default, digits, load_config
from ntk_train.data import load_dataset
from ntk_train.models import create_model
from ntk_train.train import ConfigError
from ntk_train.train.overrides import apply_overrides


def test_a_data_set_brings_its_arguments():
    config = default.get_config()
    rest = ["--config.dataset.kwargs.test_fraction=0.5", "--workdir=w"]
    assert apply_overrides(config, ["--config.dataset.name=lfw_faces", *rest]) == [
        "--config.dataset.name=lfw_faces",
        *rest,
    ]
    assert config.dataset.to_dict() == {
        "name": "lfw_faces",
        "kwargs": {"test_fraction": 0.3, "seed": 0},
    }
    assert load_dataset("lfw_faces", **config.dataset.kwargs).num_classes == 2
    with pytest.raises(AttributeError):  # it is locked as before
        config.dataset.kwargs.classes = (4, 9)


def test_a_model_brings_its_attributes():
    config = default.get_config("cnn")
    apply_overrides(config, ["--config.model.name", "resnet-18"])
    assert config.model.name == "resnet-18"
    create_model(config.model.name, num_outputs=2, **config.model.kwargs)
    for section, said in (("model", "resnet-18"), ("dataset", "lfw_faces")):
        with pytest.raises(ConfigError, match=f"config.{section}: .*Did you mean '{said}'"):
            apply_overrides(config, [f"--config.{section}.name={said[:-1]}"])


def test_the_one_that_is_there_already_keeps_its_arguments():
    config = default.get_config()
    before = config.to_dict()
    apply_overrides(config, ["--config.dataset.name=digits", "--config.model.name=cnn"])
    assert config.to_dict() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config.dataset.kwargs.classes=None"],
        ["--config.dataset.kwargs.classes", "None"],
        ["-config.dataset.kwargs.classes", "None"],
    ],
)
def test_none_is_none(arguments):
    config = default.get_config()
    assert apply_overrides(config, [*arguments, "--config.seed=3"]) == ["--config.seed=3"]
    assert config.dataset.kwargs.classes is None


def test_a_field_without_a_value_takes_one():
    config = digits.get_config()
    assert config.dataset.kwargs.classes is None
    assert apply_overrides(config, ["--config.dataset.kwargs.classes=(1, 7)"]) == []
    assert config.dataset.kwargs.classes == (1, 7)
    config = default.get_config()
    apply_overrides(
        config, ["--config.dataset.name=cifar10", "--config.dataset.kwargs.data_dir=/x"]
    )
    assert config.dataset.kwargs.data_dir == "/x"


def test_a_number_is_not_none():
    with pytest.raises(ConfigError, match=r"learning_rate=None; expected a float such as 0.003"):
        apply_overrides(default.get_config(), ["--config.optimizer.learning_rate=None"])


def test_what_is_no_field_is_left_to_be_refused():
    arguments = ["--config.optimizer.nam=None", "--config.ntk.per_layer", "--config.seed.x=None"]
    assert apply_overrides(default.get_config(), arguments) == arguments


def test_configs_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "quickstart" in NAMES
    assert load_config("imagenet:vit-s/16").model.name == "vit-s/16"
    # As in the time when they lay beside the package.
    assert load_config("configs/imagenet.py:vit-s/16").model.name == "vit-s/16"
    (tmp_path / "mine.py").write_text(
        "from ntk_train.configs import default\n"
        "def get_config(arg=None):\n"
        "    config = default.get_config()\n"
        "    config.batch_size = int(arg or 3)\n"
        "    return config\n"
    )
    assert load_config("mine.py").batch_size == 3
    assert load_config(f"{tmp_path}/mine.py:5").batch_size == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("imagnet:resnet-50", "Did you mean 'imagenet'?"),
        ("mine.py", "--config=mine.py: Unknown config 'mine.py'; expected one of 'cifar2'"),
        ("other/imagenet.py", "Unknown config 'other/imagenet.py'"),
        ("recipes", "Unknown config 'recipes'"),
        ("imagenet:resnt-50", "Did you mean 'resnet-50'?"),
        ("digits:cnn,smok", "Did you mean 'smoke'?"),
        ("quickstart:tne", "Did you mean 'ten'?"),
        ("default:cnn2", "Did you mean 'cnn20'?"),
        ("empty.py", "empty.py has no function get_config(arg)"),
        ("plain.py:text", "plain.py takes nothing after its name; expected --config=plain.py"),
        ("notes.txt", "is a file, but not one of Python"),
    ],
)
def test_what_is_no_config_is_named_with_the_nearest(text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.py").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "plain.py").write_text("def get_config():\n    return {}\n")
    with pytest.raises(NoConfigError, match=re.escape(said)):
        load_config(text)
