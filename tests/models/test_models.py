import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train.models import MODELS, create_model, model_defaults

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8, 1)), jnp.float32)

CASES = [
    ("fcn", {"widths": (5, 4)}),
    ("fcn", {"widths": 4, "depth": 3, "activation": "tanh", "use_bias": False}),
    ("cnn", {"features": (4,)}),
    ("cnn", {"features": (4, 4), "norm": "batch", "pooling": "avg"}),
    ("cnn", {"features": (4,), "norm": "layer", "activation": jnp.sin}),
    ("cnn", {"features": (6,), "norm": "group", "pooling": "none", "use_bias": False}),
]


@pytest.mark.parametrize(("name", "attributes"), CASES)
def test_logits_are_per_example_and_parameters_float32(name, attributes, key):
    model = create_model(name, num_outputs=3, **attributes)
    variables = model.init(key, IMAGES)
    logits = model.apply(variables, IMAGES, train=False)
    assert logits.shape == (3, 3)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    alone = model.apply(variables, IMAGES[1:2], train=False)
    np.testing.assert_allclose(alone[0], logits[1], rtol=1e-5, atol=1e-6)


def test_batch_norm_in_train_mode_couples_examples_and_updates_statistics(key):
    model = create_model("cnn", features=(4,), norm="batch")
    variables = model.init(key, IMAGES)
    logits, updated = model.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    alone, _ = model.apply(variables, IMAGES[:1], train=True, mutable=["batch_stats"])
    assert not np.allclose(logits[0], alone[0])
    before = jax.tree.leaves(variables["batch_stats"])
    assert not all(map(np.array_equal, before, jax.tree.leaves(updated["batch_stats"])))


def test_one_width_is_repeated(key):
    repeated = create_model("fcn", widths=4, depth=3).init(key, IMAGES)
    listed = create_model("fcn", widths=(4, 4, 4)).init(key, IMAGES)
    assert jax.tree.map(jnp.shape, repeated) == jax.tree.map(jnp.shape, listed)


def test_half_precision_computes_in_it_and_keeps_parameters(key):
    model = create_model("cnn", features=(4,), norm="group", dtype="bfloat16")
    variables = model.init(key, IMAGES)
    assert model.apply(variables, IMAGES).dtype == jnp.bfloat16
    assert jax.tree.leaves(variables)[0].dtype == jnp.float32


@pytest.mark.parametrize("name", MODELS)
def test_defaults_make_the_default_model(name):
    assert create_model(name, **model_defaults(name)) == create_model(name)
    assert "num_outputs" not in model_defaults(name)


@pytest.mark.parametrize(
    ("name", "attributes", "text"),
    [
        ("vgg", {}, "Unknown model 'vgg'; expected one of 'cnn', 'cnn20', 'conv-4', 'fcn', "),
        ("resnet50", {}, "Did you mean 'resnet-50'?"),
        ("resnet-50", {"feature": 4}, "attribute of model 'resnet-50': 'feature'; expected"),
        ("fnc", {}, "Did you mean 'fcn'?"),
        ("cnn", {"feature": (4,)}, "Did you mean 'features'?"),
    ],
)
def test_unknown_names_list_what_there_is(name, attributes, text):
    with pytest.raises(ValueError, match=text.replace("?", r"\?")):
        create_model(name, **attributes)


@pytest.mark.parametrize(
    ("name", "attributes", "shape", "text"),
    [
        ("cnn", {"norm": "bacth"}, (1, 8, 8, 1), "Did you mean 'batch'"),
        ("cnn", {"pooling": "mean"}, (1, 8, 8, 1), "Unknown pooling 'mean'"),
        ("fcn", {"activation": "rleu"}, (1, 8), "Did you mean 'relu'"),
        ("cnn", {}, (1, 64), "expected images"),
        ("cnn", {"features": (2, 2, 2, 2)}, (1, 8, 8, 1), "at least 16 x 16"),
    ],
)
def test_attributes_that_cannot_work_say_why(name, attributes, shape, text, key):
    with pytest.raises(ValueError, match=text):
        create_model(name, **attributes).init(key, jnp.zeros(shape, jnp.float32))
