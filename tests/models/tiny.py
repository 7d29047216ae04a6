"""A small variant of each family, and of each way to build it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train.models import create_model
from tests.oracle import QUICK

jit = functools.partial(jax.jit, compiler_options=QUICK)

_VIT = {"patch_size": 2, "width": 4, "num_heads": 2, "mlp_ratio": 2}
_MIXER = {"patch_size": 2, "width": 4, "tokens_dim": 3, "channels_dim": 5}
_NTK = {"parameterization": "ntk", "sigma_w": 1.5, "sigma_b": 0.3}

TINY = {
    "fcn": ("fcn", {"widths": (6, 5), "activation": "silu"}),
    "fcn, ntk": ("fcn", {"widths": 4, "activation": "tanh", **_NTK}),
    "cnn": ("cnn", {"features": (3, 2)}),
    "cnn, ntk": ("cnn", {"features": (3, 2), "head": "flatten", **_NTK}),
    "cnn20": ("cnn20", {"features": (3, 2), "depth": (2, 1)}),
    "conv-4": ("conv-4", {"features": (3, 2), "num_outputs": 1}),
    "resnet": ("resnet-18", {"stages": (1, 1), "features": 2, "stem": "cifar"}),
    "bottleneck": ("resnet-50", {"stages": (1,), "features": 3, "norm": "layer"}),
    "wide bottleneck": ("wide-resnet-50-2", {"stages": (1,), "features": 4, "norm": "none"}),
    "wrn": ("wrn-28-10", {"depth": 10, "widen_factor": 1, "features": 4, "norm": "group"}),
    "vit": ("vit-s/16", {"depth": 2, **_VIT}),
    "vit, mean": ("vit-ti/32", {"depth": 1, "pooling": "mean", **_VIT}),
    "hybrid": (
        "r50+vit-b/16",
        {"depth": 1, "stem_stages": (1,), "stem_features": 3, **_VIT, "patch_size": 1},
    ),
    "mixer": ("mixer-b/16", {"depth": 2, **_MIXER}),
}
"""From a title to the name of the model and what makes it small."""

# Those with a switch for it.
SCANNED = ["vit", "mixer"]

IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 2))


def heavy_but(light, cases):
    """Cases for `parametrize`, heavy all but those whose title is in light."""
    title = lambda case: case[0] if isinstance(case, tuple) else case
    mark = lambda case: [] if title(case) in light else [pytest.mark.heavy]
    values = lambda case: case if isinstance(case, tuple) else (case,)
    return [pytest.param(*values(case), marks=mark(case)) for case in cases]


def tiny(title, **overrides):
    """The model of that title, with 3 outputs."""
    name, attributes = TINY[title]
    return create_model(name, **{"num_outputs": 3, **attributes, **overrides})


def variables_of(model, dtype="float32"):
    """Images and random variables: biases too, and running statistics of neither 0 nor 1."""
    images = jnp.asarray(IMAGES, dtype)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(1)
    draw = lambda leaf: rng.normal(size=leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
    variables = {"params": jax.tree.map(draw, shapes.pop("params"))}
    variables |= jax.tree.map(lambda leaf: 0.5 + abs(rng.normal(size=leaf.shape)), shapes)
    return images, jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables)


def stacked(params):
    """The parameters of a loop over layers, with those of its layers one by one."""
    layers = [name for name in params if name.startswith("block_")]
    blocks = [params[f"block_{i}"] for i in range(len(layers))]
    rest = {name: tree for name, tree in params.items() if name not in layers}
    return rest | {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}
