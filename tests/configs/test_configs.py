"""Every config runs, in its smoke form, from the images to the kernel in the event files."""

import importlib

import jax
import numpy as np
import pytest

pytest.importorskip("clu")

from ntk_train.configs import recipes
from ntk_train.models import MODELS
from ntk_train.train import train_and_evaluate
from ntk_train.train.optimizer import make_schedule

# For each file its models; the first is the default.
MODELS_OF = {
    "digits": ["cnn", "fcn"],
    "cifar2": ["cnn20", "wrn-28-10", "wrn-16-4", "cnn", "fcn"],
    "mini_imagenet": ["conv-4", "resnet-18", "wrn-28-10"],
    "imagenet": ["resnet-50"]
    + [n for n in MODELS if n != "resnet-50" and n.startswith(("res", "wide", "vit", "r5", "r2"))]
    + [n for n in MODELS if n.startswith("mixer")],
}
# One or two models of each file; the others are heavy tests, as they take half a minute to compile.
RUN = [
    ("digits", "cnn"),
    ("digits", "fcn"),
    ("cifar2", "fcn"),
    ("mini_imagenet", "conv-4"),
    ("imagenet", "resnet-18"),
    ("imagenet", "mixer-s/32"),
]
ALL = [(name, model) for name, models in MODELS_OF.items() for model in models]


def config_of(name, arg=None):
    return importlib.import_module(f"ntk_train.configs.{name}").get_config(arg)


@pytest.mark.parametrize(
    ("name", "model"),
    [pytest.param(*pair, marks=[] if pair in RUN else pytest.mark.heavy) for pair in ALL],
)
def test_smoke_form_runs(name, model, tmp_path, capsys):
    state = train_and_evaluate(config_of(name, f"{model},smoke"), tmp_path)
    assert int(state.step) == 3
    assert not bool(state.diverged)
    table = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in table if line.split()[:1] in (["0"], ["3"])]
    assert [row[0] for row in rows] == ["0", "3"]
    assert all(float(row[3]) > 0 for row in rows)  # lambda_max
    assert (tmp_path / "probe.json").exists()


@pytest.mark.parametrize(("name", "model"), ALL)
def test_whole_form_fits_its_data_and_model(name, model):
    config = config_of(name, model)
    assert config.model.name == model
    assert config.num_train_steps > config.optimizer.warmup_steps
    first = float(make_schedule(config.optimizer, config.num_train_steps)(0))
    peak = 0.0 if config.optimizer.warmup_steps else config.optimizer.learning_rate
    np.testing.assert_allclose(first, peak, rtol=1e-6)
    assert config.dataset.name == {"imagenet": "imagenet2012"}.get(name, name)


@pytest.mark.parametrize("name", MODELS_OF)
def test_models_of_a_config(name):
    assert config_of(name).model.name == MODELS_OF[name][0]
    assert config_of(name, "smoke").dataset.name == "synthetic"
    with pytest.raises(ValueError, match=MODELS_OF[name][0]):
        config_of(name, "resnet-19")
    with pytest.raises(ValueError, match="expected a model"):
        config_of(name, ",".join(MODELS_OF[name][:2]))


def test_lengths_are_those_of_the_papers():
    config = config_of("imagenet", "resnet-50")
    assert config.num_train_steps == round(90 * 1_281_167 / 256)
    schedule = make_schedule(config.optimizer, config.num_train_steps)
    epoch = 1_281_167 / 256
    rates = [float(schedule(int(e * epoch))) for e in (6, 29, 31, 61, 81)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 1e-3, 1e-4], rel=1e-6)


def test_smoke_models_are_small():
    for name, model in ALL:
        config = config_of(name, f"{model},smoke")
        narrow = recipes.MODELS[model].family(**config.model.kwargs, num_outputs=4)
        shape = (1, *config.dataset.kwargs.image_shape)
        variables = jax.eval_shape(
            narrow.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, "float32")
        )
        count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        assert count < 150_000, (name, model, count)
