"""What the families share: activations and norms by name, patches, MLPs, repeated blocks."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax

from ntk_train._registry import lookup

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {
        "elu": nn.elu,
        "gelu": nn.gelu,
        "identity": lambda x: x,
        "leaky_relu": nn.leaky_relu,
        "relu": nn.relu,
        "sigmoid": nn.sigmoid,
        "silu": nn.silu,
        "softplus": nn.softplus,
        "tanh": nn.tanh,
    }
)
"""Elementwise nonlinearities by name."""


def activation_fn(
    activation: str | Callable[[jax.Array], jax.Array],
) -> Callable[[jax.Array], jax.Array]:
    """The nonlinearity of that name; a function is returned as it is.

    Raises:
      ValueError: no such activation.
    """
    if callable(activation):
        return activation
    return lookup(ACTIVATIONS, activation, "activation")


def normalize(
    x: jax.Array,
    norm: str,
    *,
    train: bool,
    dtype: Any,
    param_dtype: Any,
    name: str | None = None,
) -> jax.Array:
    """Normalises features on the last axis; to be called inside a compact Linen module.

    Args:
      x: [N, ..., B].
      norm: "none"; "batch", over examples and positions (S. Ioffe, C. Szegedy, *Batch
        Normalization*, ICML 2015, algorithms 1 and 2), which couples examples if `train`; "layer",
        over the features of a position (J. L. Ba, J. R. Kiros, G. E. Hinton, *Layer
        Normalization*, 2016, equation 3); "group", over positions and 32 groups of features, or as
        many as divide both 32 and B (Y. Wu, K. He, *Group Normalization*, ECCV 2018, equation 7).
      train: whether "batch" takes the statistics of the batch, not the running ones.
      dtype: of the computation, None for that of x and the parameters.
      param_dtype: of the parameters.
      name: of the layer, None for one that Linen makes.

    Raises:
      ValueError: no such norm.
    """
    layers: dict[str, Callable[..., Callable[[jax.Array], jax.Array]]] = {
        "none": lambda **_: lambda x: x,
        "batch": lambda **kw: nn.BatchNorm(use_running_average=not train, momentum=0.9, **kw),
        "layer": nn.LayerNorm,
        "group": lambda **kw: nn.GroupNorm(num_groups=math.gcd(32, x.shape[-1]), **kw),
    }
    layer = lookup(layers, norm, "norm")
    # E[x^2] - E[x]^2 would cancel where the mean is large, and in derivatives all the more.
    return layer(use_fast_variance=False, dtype=dtype, param_dtype=param_dtype, name=name)(x)


def check_images(shape: tuple[int, ...], multiple: int = 1) -> None:
    """Checks that these are images [N, height, width, channels].

    Args:
      shape: of the input.
      multiple: height and width have to be multiples of it, of the patches' side for example.

    Raises:
      ValueError: they are not.
    """
    if len(shape) != 4:
        msg = f"x has shape {shape}; expected images [N, height, width, channels]."
        raise ValueError(msg)
    if shape[1] % multiple or shape[2] % multiple:
        msg = (
            f"x has images of {shape[1]} x {shape[2]}, which patches of {multiple} x {multiple} do "
            "not tile. Take another patch_size or another image size."
        )
        raise ValueError(msg)


def embed_patches(x: jax.Array, patch: int, width: int, **options: Any) -> jax.Array:
    """A dense layer from each patch to a token; to be called inside a compact Linen module.

    Args:
      x: images [N, height, width, channels].
      patch: pixels on the side of a patch.
      width: features of a token (A).
      **options: of the layer.

    Returns:
      Tokens [N, T, A], row by row.
    """
    check_images(x.shape, patch)
    sizes = (patch, patch), (patch, patch)
    x = nn.Conv(width, *sizes, padding="VALID", name="patches", **options)(x)
    return x.reshape(x.shape[0], -1, width)


class MLP(nn.Module):
    """Two dense layers with GELU between them, from A features to A.

    Attributes:
      hidden: features between them.
      dropout_rate: of both results in train mode.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.
    """

    hidden: int
    dropout_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns [N, ..., A] for x [N, ..., A]."""
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = nn.gelu(nn.Dense(self.hidden, name="expand", **options)(x), approximate=False)
        h = nn.Dropout(self.dropout_rate, deterministic=not train)(h)
        h = nn.Dense(x.shape[-1], name="contract", **options)(h)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(h)


def repeat(
    block: type[nn.Module], x: jax.Array, depth: int, *, remat: bool, scan: bool, **options: Any
) -> jax.Array:
    """Applies `depth` equal blocks; to be called inside a compact Linen module.

    Args:
      block: a module with attributes `options`, called with an array and returning a pair of one of
        the same shape and None.
      x: its first input.
      depth: the number of blocks.
      remat: whether a backward pass computes a block again in place of keeping its activations.
      scan: whether they are compiled as one loop, with parameters stacked on a first axis in
        "blocks"; otherwise they are "block_0", "block_1", ...
      **options: attributes of each block.
    """
    if remat:
        block = nn.remat(block, prevent_cse=not scan)
    if not scan:
        for index in range(depth):
            x, _ = block(name=f"block_{index}", **options)(x)
        return x
    stack = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=depth,
    )
    return stack(name="blocks", **options)(x)[0]
