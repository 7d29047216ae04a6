"""Models have the published sizes, to the digit, and the page says so."""

import jax
import jax.numpy as jnp
import pytest

from experiments import model_table
from ntk_train.models import MODELS, create_model


def count(row, **overrides):
    model = create_model(row.name, num_outputs=row.num_outputs, **overrides)
    image = jax.ShapeDtypeStruct((1, row.pixels, row.pixels, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize("row", model_table.PUBLISHED, ids=lambda row: row.name)
def test_the_number_of_parameters_is_the_published_one(row):
    assert count(row) == row.parameters


def test_every_model_of_fixed_size_is_in_the_table():
    assert [row.name for row in model_table.PUBLISHED] == [
        name for name in MODELS if name not in ("fcn", "cnn")
    ]


@pytest.mark.parametrize("name", ["vit-ti/16", "mixer-s/32"])
def test_stacked_layers_have_as_many(name):
    (row,) = [row for row in model_table.PUBLISHED if row.name == name]
    assert count(row, scan_layers=True, remat=True) == row.parameters


def test_the_hybrid_has_the_size_that_is_published_with_more_outputs():
    (row,) = [row for row in model_table.PUBLISHED if row.name == "r50+vit-b/16"]
    assert round(count(row._replace(num_outputs=21_843)) / 1e6, 2) == 114.69
    (row,) = [row for row in model_table.PUBLISHED if row.name == "r26+vit-s/32"]
    assert round(count(row._replace(pixels=384)) / 1e6, 2) == 36.47  # timm, at 384 pixels


def test_wide_residual_networks_by_hand():
    """Table 1: WRN-28-10, 4 blocks in each of 3 stages; scales and biases of batch norms."""
    total, last = 9 * 3 * 16, 16
    for width in (160, 320, 640):
        total += last * width  # the shortcut
        for _ in range(4):
            total += 2 * last + 9 * last * width + 2 * width + 9 * width * width
            last = width
    total += 2 * 640 + 640 * 10 + 10
    (row,) = [row for row in model_table.PUBLISHED if row.name == "wrn-28-10"]
    assert total == row.parameters


def test_mixers_by_hand():
    """Equation 1 and table 1: Mixer-L/32, 49 tokens."""
    tokens, width, hidden_tokens, hidden_channels = 49, 1024, 512, 4096
    mlp = lambda a, b: a * b + b + b * a + a
    block = 2 * 2 * width + mlp(tokens, hidden_tokens) + mlp(width, hidden_channels)
    total = 32 * 32 * 3 * width + width + 24 * block + 2 * width + 1000 * width + 1000
    (row,) = [row for row in model_table.PUBLISHED if row.name == "mixer-l/32"]
    assert total == row.parameters


def test_the_page_is_up_to_date():
    assert model_table.PAGE.read_text() == model_table.page(), (
        "run python -m experiments.model_table"
    )
