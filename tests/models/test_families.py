"""What every model does: shapes, gradients, independent examples, dtypes, remat and scans."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train.models import FAMILIES, MODELS
from tests.models.tiny import SCANNED, TINY, heavy_but, jit, stacked, tiny, variables_of

over_models = pytest.mark.parametrize("title", TINY)


_KEY = r"\['key'\]\['bias'\]$"
CANCELLED = {
    "conv-4": r"\['Conv_\d'\]\['bias'\]$",
    "vit": _KEY,
    "vit, mean": _KEY,
    "hybrid": _KEY,
    "mixer": r"\['tokens'\]\['contract'\]\['bias'\]$",
}
"""By title, the parameters that change nothing in train mode, so that their gradients are zero.

BatchNorm cancels what is added to a channel at all positions of all examples; softmax, what is
added to all keys; and the layer norms behind it, what is added to all channels of a token.
"""


def loss_of(model, images, train):
    """Of variables: a sum over logits, and the updated collections."""

    def loss(params, state, key=None):
        logits, updated = model.apply(
            {"params": params, **state},
            images,
            train=train,
            mutable=list(state),
            rngs={} if key is None else {"dropout": key},
        )
        return jnp.sum(jnp.sin(logits)), (logits, updated)

    return loss


def test_every_family_has_a_tiny_variant():
    assert {MODELS[name].family for name, _ in TINY.values()} == set(FAMILIES)


@over_models
def test_shapes_gradients_and_updates_in_train_mode(title):
    model = tiny(title)
    images, variables = variables_of(model, "float64")
    params = variables.pop("params")
    loss = jit(jax.value_and_grad(loss_of(model, images, True), has_aux=True))
    (_, (logits, updated)), gradient = loss(params, variables)
    assert logits.shape == (3, model.num_outputs)
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert jax.tree.structure(updated) == jax.tree.structure(variables)
    for before, after in zip(jax.tree.leaves(variables), jax.tree.leaves(updated)):
        assert not np.array_equal(before, after)
    paths = jax.tree_util.tree_leaves_with_path(gradient)
    largest = {jax.tree_util.keystr(path): np.abs(leaf).max() for path, leaf in paths}
    zero = {name for name, size in largest.items() if size < 1e-9}
    pattern = CANCELLED.get(title)
    assert zero == {name for name in largest if pattern and re.search(pattern, name)}


@over_models
def test_eval_mode_is_of_each_example_alone_and_updates_nothing(title):
    model = tiny(title)
    images, variables = variables_of(model, "float64")
    apply = jit(lambda x: model.apply(variables, x, train=False, mutable=list(variables)))
    logits, updated = apply(images)
    assert logits.shape == (3, model.num_outputs)
    for before, after in zip(jax.tree.leaves(variables), jax.tree.leaves(updated)):
        np.testing.assert_array_equal(before, after)
    changed, _ = apply(images.at[:2].set(jnp.cos(images[:2])))
    np.testing.assert_allclose(changed[2], logits[2], rtol=1e-12)
    assert np.abs(changed[:2] - logits[:2]).max(axis=1).min() > 1e-4


@over_models
def test_parameters_are_plain_arrays_of_param_dtype_and_logits_of_dtype(title):
    model = tiny(title, dtype="bfloat16", param_dtype="float32")
    images, _ = variables_of(model)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    leaves = jax.tree.leaves(variables)
    assert {type(leaf) for leaf in leaves} == {jax.ShapeDtypeStruct}
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}
    assert jax.eval_shape(model.apply, variables, images).dtype == jnp.bfloat16
    model = tiny(title, param_dtype=jnp.bfloat16)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"bfloat16"}


@pytest.mark.parametrize("title", heavy_but(["mixer"], ["cnn, ntk", "wide bottleneck", "mixer"]))
def test_half_precision_is_close_to_single(title):
    model = tiny(title)
    images, variables = variables_of(model)
    want = jit(model.apply)(variables, images)
    got = jit(tiny(title, dtype="bfloat16").apply)(variables, images)
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.1 * np.abs(want).max())
    assert not np.array_equal(got, want)


def value_and_gradient(model, images, variables):
    """Of a sum over logits, in train mode."""
    params = variables["params"]
    state = {name: tree for name, tree in variables.items() if name != "params"}
    loss = jit(jax.value_and_grad(loss_of(model, images, True), has_aux=True))
    (_, aux), gradient = loss(params, state)
    return aux, gradient


@pytest.mark.parametrize("title", heavy_but(["cnn20", "mixer"], TINY))
def test_remat_changes_neither_names_nor_values(title):
    model, again = tiny(title), tiny(title, remat=True)
    images, variables = variables_of(model, "float64")
    jaxpr = str(jax.make_jaxpr(again.apply)(variables, images))
    assert "remat" in jaxpr or "checkpoint" in jaxpr
    want = value_and_gradient(model, images, variables)
    got = value_and_gradient(again, images, variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), got, want)


@pytest.mark.parametrize("remat", [pytest.param(False, marks=pytest.mark.heavy), True])
@pytest.mark.parametrize("title", SCANNED)
def test_a_scan_over_layers_is_the_layers_one_by_one(title, remat):
    model, scanned = tiny(title), tiny(title, scan_layers=True, remat=remat)
    images, variables = variables_of(model, "float64")
    restacked = {"params": stacked(variables["params"])}
    shapes = jax.eval_shape(scanned.init, jax.random.key(0), images)
    assert jax.tree.map(jnp.shape, restacked) == jax.tree.map(jnp.shape, shapes)
    assert "scan" in str(jax.make_jaxpr(scanned.apply)(restacked, images))
    (want, _), gradient = value_and_gradient(model, images, variables)
    (got, _), of_stacked = value_and_gradient(scanned, images, restacked)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    jax.tree.map(close, of_stacked, stacked(gradient))


@pytest.mark.parametrize("title", SCANNED)
def test_scanned_layers_are_drawn_each_for_itself(title, key):
    model = tiny(title, scan_layers=True)
    images, _ = variables_of(model)
    params = jit(model.init)(key, images)["params"]
    for leaf in jax.tree.leaves(params["blocks"]):
        assert leaf.shape[0] == 2
        assert leaf.std() == 0 or not np.array_equal(leaf[0], leaf[1])


@pytest.mark.parametrize(
    ("title", "rates"),
    heavy_but(
        ["vit"],
        [
            ("wrn", {"dropout_rate": 0.5}),
            ("vit", {"attention_dropout_rate": 0.5}),
            ("vit", {"dropout_rate": 0.5, "scan_layers": True}),
            ("mixer", {"dropout_rate": 0.5, "remat": True}),
        ],
    ),
)
def test_dropout_is_on_in_train_mode_alone(title, rates):
    plain, model = tiny(title), tiny(title, **rates)
    images, variables = variables_of(plain)
    params = variables.pop("params")
    if rates.get("scan_layers"):
        plain, params = tiny(title, scan_layers=True), stacked(params)
    same = (jit(m.apply)({"params": params}, images) for m in (plain, model))
    np.testing.assert_allclose(*same, rtol=1e-6)
    loss = jit(loss_of(model, images, True))
    one, two = (loss(params, {}, jax.random.key(seed))[1][0] for seed in (0, 1))
    assert not np.allclose(one, two)
    np.testing.assert_array_equal(one, loss(params, {}, jax.random.key(0))[1][0])


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
@pytest.mark.parametrize(("title", "field"), [("resnet", "norm"), ("hybrid", "stem_norm")])
def test_norms_are_what_they_are_called(title, field, norm):
    model = tiny(title, **{field: norm})
    images, _ = variables_of(model)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    assert ("batch_stats" in shapes) == (norm == "batch")
    assert ("norm_stem" in shapes["params"]) == (norm != "none")


def test_a_hybrid_of_mean_pooling_has_no_class_token():
    _, variables = variables_of(tiny("vit, mean"))
    assert "class_token" not in variables["params"]
    assert variables["params"]["positions"].shape == (1, 16, 4)
    with_token = variables_of(tiny("vit"))[1]["params"]
    assert with_token["positions"].shape == (1, 17, 4)


@pytest.mark.parametrize(
    ("title", "overrides", "text"),
    [
        ("vit", {"patch_size": 3}, "8 x 8, which patches of 3 x 3 do not tile"),
        ("mixer", {"patch_size": 5}, "patches of 5 x 5"),
        ("vit", {"pooling": "max"}, "Unknown pooling 'max'; expected one of 'mean', 'token'"),
        ("wrn", {"depth": 12}, "depth=12; expected 4 more than a multiple of 6"),
        ("resnet", {"stem": "imgenet"}, "Did you mean 'imagenet'"),
        ("resnet", {"norm": "batchnorm"}, "Unknown norm 'batchnorm'"),
        ("cnn20", {"depth": (1, 2, 3)}, "have 3 and 2 entries"),
        ("cnn", {"head": "max"}, "Unknown head 'max'; expected one of 'flatten', 'mean'"),
        ("fcn", {"parameterization": "NTK"}, "Unknown parameterization 'NTK'"),
    ],
)
def test_attributes_that_cannot_work_say_why(title, overrides, text, key):
    model = tiny(title, **overrides)
    with pytest.raises(ValueError, match=text):
        jax.eval_shape(model.init, key, jnp.zeros((1, 8, 8, 2)))
