import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("ml_collections")

from ntk_train.configs import default, quickstart
from ntk_train.train import ConfigError
from ntk_train.train import config as configs
from ntk_train.train.setup import make_hook, make_setup


def test_a_typo_is_refused_with_a_suggestion():
    config = default.get_config()
    with pytest.raises(AttributeError, match='Did you mean "learning_rate"'):
        config.optimizer.learnin_rate = 1.0
    with pytest.raises(AttributeError, match='Did you mean "features"'):
        config.model.kwargs.feature = (4,)


def test_arguments_of_config_files():
    assert "widths" in default.get_config("fcn").model.kwargs
    assert quickstart.get_config("ten").dataset.kwargs.classes is None
    with pytest.raises(ValueError, match="expected one of 'ten', 'two'"):
        quickstart.get_config("three")
    with pytest.raises(ValueError, match="Did you mean 'fcn'"):
        default.get_config("fnc")


def test_hparams_are_flat_and_plain():
    values = {
        "dtype": jnp.bfloat16,
        "numpy": np.dtype("int8"),
        "function": np.sin,
        "tuple": (1, 2),
        "none": None,
        "number": np.float32(0.5),
        "nested": {"flag": True, "deep": {"text": "x"}},
    }
    assert configs.flat_hparams(values) == {
        "dtype": "bfloat16",
        "numpy": "int8",
        "function": "sin",
        "tuple": "(1, 2)",
        "none": "None",
        "number": 0.5,
        "nested/flag": True,
        "nested/deep/text": "x",
    }


def test_the_saved_config_is_json_and_changes_to_it_are_named(tmp_path):
    config, path = default.get_config(), tmp_path / "config.json"
    configs.save_config(config, path)
    assert json.loads(path.read_text())["optimizer"]["name"] == "adamw"
    assert configs.changes(config, path) == []
    config.optimizer.learning_rate = 0.5
    with config.unlocked():
        del config.batch_size
        config.model.kwargs.width = None
    assert configs.changes(config, path) == [
        "config.batch_size was 64 and is not there",
        "config.model.kwargs.width was not there and is None",
        "config.optimizer.learning_rate was 0.003 and is 0.5",
    ]
    assert configs.changes(config, tmp_path / "missing.json") == []
    for content in (path.read_text()[:40], "[]"):
        path.write_text(content)
        (said,) = configs.changes(config, path)
        assert said.startswith("config.json cannot be read: ")


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("batch_size", 0, "config.batch_size=0; expected 1 or more"),
        ("dataset.name", "digit", "config.dataset: Unknown dataset 'digit'"),
        ("dataset.kwargs.classes", (3, 12), "config.dataset: classes="),
        ("model.name", "fnc", "config.model: Unknown model"),
        ("model.name", "fcn", "config.model: Unknown attribute of model 'fcn': 'conv_bias'"),
        ("optimizer.name", "adam", "config.optimizer: Unknown optimizer 'adam'"),
        ("optimizer.schedule", "cosin", "Did you mean 'cosine'"),
        ("optimizer.warmup_steps", 1000, "fewer than num_train_steps=1000"),
        ("optimizer.learning_rate", -0.1, "config.optimizer: learning_rate=-0.1; expected a pos"),
        ("optimizer.learning_rate", float("nan"), "config.optimizer: learning_rate=nan"),
        ("optimizer.weight_decay", -1.0, "config.optimizer: weight_decay=-1.0; expected 0 or more"),
        ("optimizer.momentum", 1.0, "config.optimizer: momentum=1.0; expected 0 or more, and bel"),
        ("optimizer.step_factor", 0.0, "config.optimizer: step_factor=0.0; expected a positive"),
        ("ntk.probe_size", 1000, "config.ntk.probe_size: size=1000"),
        ("ntk.every_steps", 0, "config.ntk: every_steps=0"),
        ("ntk.probes", ("tset",), "config.ntk: probes=('tset',); expected one or more of"),
        ("ntk.probes", (), "config.ntk: probes=(); expected one or more of"),
        ("ntk.stop_above_condition_number", -1.0, "expected a positive number, or 0 for none"),
    ],
)
def test_errors_name_the_section(field, value, text):
    def start():
        configs.check(config)
        make_hook(config, make_setup(config), writer=None)

    config = default.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=re.escape(text)):
        start()


def test_an_error_of_the_test_probe_names_its_section(monkeypatch):
    def no_test_images(source):
        raise ValueError("no images")

    monkeypatch.setattr("ntk_train.train.setup.largest_probe", no_test_images)
    with pytest.raises(ConfigError, match=r"config.ntk.probe_size: no images"):
        make_setup(default.get_config())
