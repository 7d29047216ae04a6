"""The structured kernel of small variants; most families are in the bank too, for all laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import explain, linen_fn, ntk
from ntk_train.models import MODELS, create_model
from tests import oracle
from tests.models.tiny import TINY, heavy_but, jit, tiny, variables_of

# Of those that are not in the bank.
KERNELS = {
    "conv-4": {},
    "wide bottleneck": {"norm": "layer", "remat": True},
    "hybrid": {},
    "vit": {"scan_layers": True, "remat": True},
    "mixer": {"scan_layers": True},
}


@pytest.mark.parametrize("title", heavy_but(["hybrid", "vit"], KERNELS))
def test_the_structured_kernel_is_that_of_the_oracle(title):
    model = tiny(title, **KERNELS[title])
    images, variables = variables_of(model, "float64")
    params = variables.pop("params")
    apply = linen_fn(model, train=False)
    f = lambda params, x: apply(params, x, variables)
    kernel = jit(functools.partial(ntk, f, implementation="structured", strict=True))
    want = oracle.kernel(f, params, images[:2])
    np.testing.assert_allclose(
        kernel(params, images[:2]), want, rtol=0, atol=1e-10 * np.abs(want).max()
    )


def unfactored(model, shape):
    """Parameters whose part of the kernel comes from a transposition, with their sizes."""
    image = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    state = {name: tree for name, tree in shapes.items() if name != "params"}
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    apply = linen_fn(model, train=False)
    found = explain(lambda params, x: apply(params, x, zeros), shapes["params"], image)
    parts = found.plan.all_parts
    sizes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes["params"])
    }
    return [
        part.path
        for part in parts
        if part.unfactored or (part.way.name == "transposed" and not is_small(part.path, sizes))
    ]


def is_small(path, sizes):
    """Biases, scales, positions and the class token have no factors: one number, one use."""
    return path.rpartition("/")[2] in ("bias", "scale", "positions", "class_token")


@pytest.mark.parametrize("title", TINY)
@pytest.mark.parametrize("remat", [False, True])
def test_every_weight_is_factored(title, remat):
    assert unfactored(tiny(title, remat=remat), (8, 8, 2)) == []


@pytest.mark.parametrize("title", ["vit", "mixer"])
def test_every_weight_of_scanned_layers_is_factored(title):
    assert unfactored(tiny(title, scan_layers=True, remat=True), (8, 8, 2)) == []


@pytest.mark.parametrize(
    ("name", "pixels"),
    [("resnet-18", 64), ("wrn-16-4", 32), ("vit-ti/16", 224), ("mixer-s/32", 224)],
)
def test_every_weight_of_whole_models_is_factored(name, pixels):
    assert name in MODELS
    assert unfactored(create_model(name), (pixels, pixels, 3)) == []
