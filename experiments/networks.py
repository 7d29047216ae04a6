"""The networks of the benchmarks: functions, parameters and the shape of one input.

Fully connected and convolutional networks without biases, as in R. Novak, J. Sohl-Dickstein,
S. S. Schoenholz, *Fast Finite Width Neural Tangent Kernel*, ICML 2022, figures 1 and 2; ResNets
(K. He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, table 1) in Flax with
BatchNorm in evaluation mode, of which only `params` are differentiated; and vision transformers
(A. Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021; the sizes of ViT-S/16 are those
of H. Touvron et al., *Training data-efficient image transformers*, ICML 2021, table 1).

Parameters are drawn by NumPy from a fixed seed: the same on every machine, and nothing to compile.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ntk_train.models import create_model


class Network(NamedTuple):
    """A function, where to take its kernel, and the shape of one of its inputs."""

    f: Callable[[Any, jax.Array], jax.Array]
    params: Any
    shape: tuple[int, ...]

    @property
    def num_parameters(self) -> int:
        """The number of differentiated numbers (P)."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def inputs(self, n: int) -> jax.Array:
        """N standard normal inputs, always the same."""
        return _normal(np.random.default_rng(1), (n, *self.shape))


def fcn(width: int, o: int, depth: int = 10) -> Network:
    """A ReLU network of `depth` layers without biases."""
    sizes = [width] * depth + [o]
    rng = np.random.default_rng(0)
    weights = [_normal(rng, (a, b), a**-0.5) for a, b in itertools.pairwise(sizes)]

    def f(weights: list[jax.Array], x: jax.Array) -> jax.Array:
        for w in weights[:-1]:
            x = jax.nn.relu(x @ w)
        return x @ weights[-1]

    return Network(f, weights, (width,))


def form(name: str, o: int = 8, width: int = 128, depth: int = 10) -> Network:
    """A network of ten layers whose weights are used in another form than `x @ w`.

    Args:
      name: one of `FORMS`.
      o: outputs.
      width: of the layers.
      depth: number of layers.
    """
    rng = np.random.default_rng(0)
    last = _normal(rng, (width, o), width**-0.5)

    def f(params: tuple[Any, jax.Array], x: jax.Array) -> jax.Array:
        return FORMS[name](params[0], x) @ params[1]

    shape: tuple[int, ...] = (width, width)
    count = depth
    if name == "convolution in 4 groups":
        shape = (3, 3, width // 4, width)
    elif name == "embedding of 16 tokens":
        shape, count = (1000, width), 1
    elif name == "one weight used 24 times":
        count = 1
    weights = [_normal(rng, shape, math.prod(shape[:-1]) ** -0.5) for _ in range(count)]
    hidden = jnp.stack(weights) if name == "scan over stacked weights" else weights
    inputs = (8, 8, width) if "convolution" in name else (width,)
    return Network(f, (hidden if count > 1 else weights[0], last), inputs)


def _layers(step: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable:
    def apply(weights: list[jax.Array], x: jax.Array) -> jax.Array:
        for w in weights:
            x = jax.nn.relu(step(x, w))
        return x

    return apply


def _groups(x: jax.Array, w: jax.Array) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=layout, feature_group_count=4
    )


_product = jax.checkpoint(lambda x, w: x @ w)

FORMS: dict[str, Callable[[Any, jax.Array], jax.Array]] = {
    "x @ w": _layers(lambda x, w: x @ w),
    "x @ w.T": _layers(lambda x, w: x @ w.T),
    "x @ (c * w)": _layers(lambda x, w: x @ (0.7 * w)),
    "remat in each layer": _layers(_product),
    "scan over stacked weights": lambda weights, x: jax.lax.scan(
        lambda h, w: (jax.nn.relu(h @ w), None), x, weights
    )[0],
    "one weight used 24 times": lambda w, x: jax.lax.scan(
        lambda h, _: (jnp.tanh(h @ w), None), x, length=24
    )[0],
    "convolution in 4 groups": lambda weights, x: _layers(_groups)(weights, x).mean(axis=(1, 2)),
    "embedding of 16 tokens": lambda table, x: jnp.tanh(
        table[jnp.abs(100 * x[:, :16]).astype(int)]
    ).mean(axis=1),
}
"""How the hidden weights are used."""


def mixer(o: int, width: int = 64, hidden: int = 256, depth: int = 3) -> Network:
    """Tokens and features mixed in turn by layers `w @ x` under `jax.vmap`, as Equinox has them.

    (I. Tolstikhin et al., *MLP-Mixer: An all-MLP Architecture for Vision*, NeurIPS 2021.)
    """
    tokens, rng = 49, np.random.default_rng(0)

    def pair(a: int) -> tuple[jax.Array, jax.Array]:
        return _normal(rng, (hidden, a), a**-0.5), _normal(rng, (a, hidden), hidden**-0.5)

    blocks = [(pair(tokens), pair(width)) for _ in range(depth)]
    last = _normal(rng, (o, width), width**-0.5)

    def mix(pair: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
        return jax.vmap(lambda x: pair[1] @ jax.nn.gelu(pair[0] @ x))(x)

    def of_one(params: Any, x: jax.Array) -> jax.Array:
        for of_tokens, of_features in params[0]:
            x = x + mix(of_tokens, x.T).T
            x = x + mix(of_features, x)
        return params[1] @ x.mean(axis=0)

    return Network(jax.vmap(of_one, (None, 0)), (blocks, last), (tokens, width))


def graph_convolutions(o: int, nodes: int = 20, width: int = 32, depth: int = 3) -> Network:
    """Graph convolutions on one random graph, the mean over its nodes and a dense layer.

    (T. Kipf, M. Welling, *Semi-Supervised Classification with Graph Convolutional Networks*, ICLR
    2017.)
    """
    rng = np.random.default_rng(0)
    edges = np.triu(rng.random((nodes, nodes)) < 0.3, 1)
    adjacency = (edges | edges.T) + np.eye(nodes, dtype=np.float32)
    mean = jnp.asarray(adjacency / adjacency.sum(axis=1, keepdims=True), jnp.float32)
    weights = [_normal(rng, (width, width), width**-0.5) for _ in range(depth)]
    weights.append(_normal(rng, (width, o), width**-0.5))

    def f(weights: list[jax.Array], x: jax.Array) -> jax.Array:
        for w in weights[:-1]:
            x = jax.nn.relu(mean @ x @ w)
        return x.mean(axis=1) @ weights[-1]

    return Network(f, weights, (nodes, width))


def transposed_convolution(o: int, taps: int, stride: int, pixels: int = 8) -> Network:
    """A transposed convolution of 32 to 16 channels, the mean over pixels and a dense layer."""
    rng = np.random.default_rng(0)
    weights = [_normal(rng, (taps, taps, 32, 16), (taps**2 * 32 / stride**2) ** -0.5)]
    weights.append(_normal(rng, (16, o), 0.25))

    def f(weights: list[jax.Array], x: jax.Array) -> jax.Array:
        y = jax.lax.conv_transpose(x, weights[0], (stride, stride), "SAME")
        return jax.nn.relu(y).mean(axis=(1, 2)) @ weights[1]

    return Network(f, weights, (pixels, pixels, 32))


def cnn(channels: int, o: int, pixels: int = 32, depth: int = 5) -> Network:
    """3 x 3 convolutions with ReLU, average pooling and a dense layer, without biases."""
    sizes = [3] + [channels] * depth
    rng = np.random.default_rng(0)
    weights = [_normal(rng, (3, 3, a, b), (9 * a) ** -0.5) for a, b in itertools.pairwise(sizes)]
    weights.append(_normal(rng, (channels, o), channels**-0.5))
    layout = ("NHWC", "HWIO", "NHWC")

    def f(weights: list[jax.Array], x: jax.Array) -> jax.Array:
        for w in weights[:-1]:
            x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)
            x = jax.nn.relu(x)
        return x.mean(axis=(1, 2)) @ weights[-1]

    return Network(f, weights, (pixels, pixels, 3))


def resnet18(o: int, pixels: int = 224) -> Network:
    """ResNet-18."""
    return _of_module(create_model("resnet-18", num_outputs=o), pixels)


def resnet50(o: int, pixels: int = 224) -> Network:
    """ResNet-50."""
    return _of_module(create_model("resnet-50", num_outputs=o), pixels)


def resnet_tiny(o: int, pixels: int = 16) -> Network:
    """Two blocks of 8 channels, for a quick look."""
    return _of_module(create_model("resnet-18", num_outputs=o, stages=(1, 1), features=8), pixels)


def vit_s16(o: int, pixels: int = 224) -> Network:
    """ViT-S/16."""
    return _of_module(ViT(o), pixels)


def vit_tiny(o: int, pixels: int = 32) -> Network:
    """ViT of 4 layers of width 64 on patches of 8 x 8, for a quick look."""
    return _of_module(ViT(o, width=64, depth=4, heads=2, patch=8), pixels)


class ViT(nn.Module):
    """A vision transformer with a class token; the defaults are those of ViT-S/16.

    Attributes:
      num_outputs: O.
      width: features of a token.
      depth: layers.
      heads: of the attention.
      patch: pixels on the side of a patch.
    """

    num_outputs: int
    width: int = 384
    depth: int = 12
    heads: int = 6
    patch: int = 16

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits [N, O] of images [N, height, width, 3]."""
        patch, init = (self.patch, self.patch), nn.initializers.normal(0.02)
        x = nn.Conv(self.width, patch, patch, padding="VALID")(x)
        x = x.reshape(x.shape[0], -1, self.width)  # [N, T, A]
        token = self.param("class_token", init, (1, 1, self.width))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.param("positions", init, (1, x.shape[1], self.width))
        for _ in range(self.depth):
            x = x + nn.MultiHeadDotProductAttention(num_heads=self.heads)(nn.LayerNorm()(x))
            y = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(y)
        return nn.Dense(self.num_outputs)(nn.LayerNorm()(x)[:, 0])


def _of_module(module: nn.Module, pixels: int) -> Network:
    shape = (pixels, pixels, 3)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    rng = np.random.default_rng(0)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _draw(rng, [key.key for key in path], leaf.shape), shapes["params"]
    )
    state = {name: _initial_state(tree) for name, tree in shapes.items() if name != "params"}
    return Network(lambda params, x: module.apply({"params": params, **state}, x), params, shape)


def _draw(rng: np.random.Generator, path: list[str], shape: tuple[int, ...]) -> jax.Array:
    """Scales are one, biases zero, kernels of variance one over the inputs, the rest small."""
    *_, module, name = ["", *path]
    if name in ("scale", "bias"):
        return jnp.full(shape, name == "scale", jnp.float32)
    if name == "kernel":
        inputs = shape[:1] if module in ("query", "key", "value") else shape[:-1]
        return _normal(rng, shape, math.prod(inputs) ** -0.5)
    return _normal(rng, shape, 0.02)


def _initial_state(tree: Any) -> Any:
    """Running means are zero, running variances one."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.full(leaf.shape, path[-1].key == "var", np.float32), tree
    )


def _normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> jax.Array:
    return jnp.asarray(scale * rng.standard_normal(shape, np.float32), jnp.float32)
