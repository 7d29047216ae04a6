"""The standard and the NTK parameterisation draw the same functions with other parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import linen_fn, ntk
from ntk_train.models import create_model
from tests.models.tiny import heavy_but, jit

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 2)))
SIGMAS = {"sigma_w": 1.3, "sigma_b": 0.4}
MODELS = [
    ("fcn", {"widths": (24, 16), "activation": "tanh"}),
    ("cnn", {"features": (6, 4), "pooling": "avg", "activation": "tanh"}),
    ("cnn", {"features": (5,), "depth": 2, "kernel_size": 5, "pooling": "none"}),
    ("cnn", {"features": (4, 6), "pooling": "stride", "head": "flatten"}),
]
INITIAL = [
    ("cnn20", {}, (16, 16, 3)),
    ("resnet-18", {"features": 8}, (32, 32, 3)),
    ("wrn-16-4", {"widen_factor": 1}, (16, 16, 3)),
    ("vit-ti/16", {"patch_size": 4, "depth": 2}, (16, 16, 3)),
    ("mixer-s/16", {"patch_size": 4, "depth": 2, "width": 64}, (16, 16, 3)),
]
over_models = pytest.mark.parametrize(("name", "attributes"), MODELS)


def scaled(params):
    """Parameters of the standard parameterisation with the function of those of the NTK one."""

    def scale(path, leaf):
        fan_in = np.prod(leaf.shape[:-1])
        kernel = path[-1].key == "kernel"
        return leaf * (SIGMAS["sigma_w"] / np.sqrt(fan_in) if kernel else SIGMAS["sigma_b"])

    return jax.tree_util.tree_map_with_path(scale, params)


@over_models
def test_both_are_one_function_of_scaled_parameters(name, attributes, key):
    theirs = create_model(name, num_outputs=3, **attributes)
    ours = theirs.clone(parameterization="ntk", **SIGMAS)
    params = ours.clone(param_dtype="float64").init(key, X)["params"]
    assert any(path[-1].key == "bias" for path, _ in jax.tree_util.tree_leaves_with_path(params))
    want = jit(theirs.apply)({"params": scaled(params)}, X)
    got = jit(ours.apply)({"params": params}, X)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["fcn", "cnn"])
def test_the_kernel_of_a_layer_is_scaled_by_its_factor_squared(name, key):
    """dy/dW is sigma_w / sqrt(fan-in) times that of the standard parameterisation."""
    small = {"widths": (24,)} if name == "fcn" else {"features": (6,), "pooling": "avg"}
    theirs = create_model(name, num_outputs=2, activation="tanh", **small)
    ours = theirs.clone(parameterization="ntk", **SIGMAS)
    params = ours.clone(param_dtype="float64").init(key, X)["params"]
    one = lambda path: path
    got = ntk(linen_fn(ours), params, X, per_layer=one)
    want = ntk(linen_fn(theirs), scaled(params), X, per_layer=one)
    for path, part in got.items():
        leaf = params[path.split("/")[0]][path.split("/")[1]]
        factor = SIGMAS["sigma_b"] ** 2
        if path.endswith("kernel"):
            factor = SIGMAS["sigma_w"] ** 2 / np.prod(leaf.shape[:-1])
        np.testing.assert_allclose(part, factor * want[path], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["fcn", "cnn"])
def test_biases_are_off_by_default_in_the_ntk_parameterization_alone(name, key):
    leaves = lambda model: jax.tree_util.tree_leaves_with_path(jax.eval_shape(model.init, key, X))
    biases = lambda model: sum(path[-1].key == "bias" for path, _ in leaves(model))
    assert biases(create_model(name)) == 3
    assert biases(create_model(name, parameterization="ntk")) == 0
    assert biases(create_model(name, parameterization="ntk", sigma_b=0.1)) == 3
    assert biases(create_model(name, parameterization="ntk", sigma_b=0.1, use_bias=False)) == 0
    assert biases(create_model(name, use_bias=False)) == 0
    assert biases(create_model("cnn", conv_bias=False)) == 1


@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
@pytest.mark.parametrize("name", ["fcn", "cnn"])
def test_outputs_at_initialization_have_the_variance_of_the_recursion(name, parameterization):
    """q_{l+1} = sigma_w^2 q_l / 2 + sigma_b^2 with ReLU (B. Poole et al., 2016, equation 3).

    Averaged over outputs and draws, for inputs of mean square 1; a CNN of 1 x 1 convolutions has
    the same features in each position of a constant image.
    """
    small = {"widths": (256, 256)}
    if name == "cnn":
        small = {"features": (256, 256), "kernel_size": 1, "pooling": "none"}
    options = {"parameterization": parameterization, "sigma_w": 1.6, "sigma_b": 0.5}
    model = create_model(name, num_outputs=64, **small, **options)
    x = jnp.ones((1, 64)) if name == "fcn" else jnp.ones((1, 2, 2, 64))
    draw = jax.jit(lambda key: model.init_with_output(key, x)[0])
    outputs = [draw(jax.random.key(seed)) for seed in range(12)]
    q = 1.6**2 + 0.25
    for _ in range(2):
        q = 1.6**2 * q / 2 + 0.25
    found = np.square(np.stack(outputs)).mean()
    np.testing.assert_allclose(found, q, rtol=0.15)


@pytest.mark.parametrize(
    ("name", "attributes", "shape"),
    heavy_but(["cnn20", "vit-ti/16"], INITIAL),
)
def test_outputs_at_initialization_are_of_order_one(name, attributes, shape, key):
    model = create_model(name, num_outputs=64, **attributes)
    x = jax.random.normal(jax.random.key(1), (4, *shape), jnp.float32)
    initial = jit(lambda key: model.init_with_output(key, x, train=True))
    logits, variables = initial(key)
    assert 0.1 < logits.std() < 10
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
