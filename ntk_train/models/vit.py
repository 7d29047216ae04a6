"""Vision transformers, and hybrids whose patches are features of a residual network.

    z_0 = [class token; patches E] + positions,    z' = z + attention(norm(z)),
    z = z' + MLP(norm(z')),    f(x) = V norm(z_L)[0] + c

(A. Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, equations 1 to 4; B and L in
table 1, S and Ti in H. Touvron et al., *Training data-efficient image transformers*, ICML 2021,
table 1). With `pooling="mean"` there is no class token, and the head sees the mean over tokens.

The hybrid `r50+vit-b/16` is that of Dosovitskiy et al., section 3.1: a ResNet with GroupNorm whose
last stage is taken away and put into the third (3, 4 and 9 bottlenecks, a 16th of the size of the
image), of which each position is a patch. The hybrids at a 32nd of the size, R26 (2, 2, 2, 2) and
R50 (3, 4, 6, 3), are those of A. Steiner et al., *How to train your ViT?*, TMLR 2022, section 3.2.
Theirs standardise the weights of convolutions (S. Qiao et al., *Micro-Batch Training with
Batch-Channel Normalization and Weight Standardization*, 2019), which adds no parameter; these do
not, so that every convolution is one of a parameter, and its part of the kernel is factored.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ntk_train._registry import unknown
from ntk_train.models.parts import MLP, embed_patches, normalize, repeat
from ntk_train.models.resnet import residual_stages


class EncoderBlock(nn.Module):
    """Attention and MLP, each after a norm and beside a shortcut.

    Attributes:
      num_heads: of the attention.
      mlp_dim: hidden features of the MLP.
      train: whether dropout is on.
      dropout_rate: of what is added to the tokens, and within the MLP.
      attention_dropout_rate: of the attention weights.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.
    """

    num_heads: int
    mlp_dim: int
    train: bool
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, None]:
        """Returns tokens [N, T, A] and None, as a scan wants it."""
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = nn.MultiHeadDotProductAttention(
            self.num_heads,
            dropout_rate=self.attention_dropout_rate,
            broadcast_dropout=False,
            deterministic=not self.train,
            name="attention",
            **options,
        )(normalize(x, "layer", train=self.train, name="norm_attention", **options))
        x = x + nn.Dropout(self.dropout_rate, deterministic=not self.train)(h)
        h = normalize(x, "layer", train=self.train, name="norm_mlp", **options)
        mlp = MLP(self.mlp_dim, self.dropout_rate, name="mlp", **options)
        return x + mlp(h, self.train), None


class ViT(nn.Module):
    """A vision transformer on images [N, height, width, A]; the defaults are those of ViT-S/16.

    Attributes:
      num_outputs: O.
      patch_size: pixels, or positions of the stem's features, on the side of a patch.
      width: features of a token.
      depth: blocks.
      num_heads: of the attention.
      mlp_ratio: hidden features of the MLPs over the width.
      pooling: "token" or "mean".
      dropout_rate: of the embedded tokens and what is added to them, in train mode.
      attention_dropout_rate: of the attention weights, in train mode.
      stem_stages: the number of bottlenecks in each stage of a residual network before the patches;
        () for none.
      stem_features: channels of its first stage.
      stem_norm: "group", "batch", "layer" or "none".
      remat: whether a backward pass computes blocks again in place of keeping activations.
      scan_layers: whether blocks are one loop over stacked parameters, quicker to compile.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.
    """

    num_outputs: int = 1000
    patch_size: int = 16
    width: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: int = 4
    pooling: str = "token"
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    stem_stages: tuple[int, ...] = ()
    stem_features: int = 64
    stem_norm: str = "group"
    remat: bool = False
    scan_layers: bool = False
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns logits [N, O].

        Args:
          x: images [N, height, width, A], always of the size with which parameters were made: there
            is a position embedding for each patch.
          train: whether dropout is on; it takes the stream "dropout".

        Raises:
          ValueError: x is no batch of images that patches tile, or an attribute is none of those
            above.
        """
        if self.pooling not in ("token", "mean"):
            raise ValueError(unknown("pooling", self.pooling, ("token", "mean")))
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.stem_stages:
            x = self._stem(x, train)
        x = self._add_positions(embed_patches(x, self.patch_size, self.width, **options))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)  # [N, T, A]
        x = repeat(
            EncoderBlock,
            x,
            self.depth,
            remat=self.remat,
            scan=self.scan_layers,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_ratio * self.width,
            train=train,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            **options,
        )
        x = normalize(x, "layer", train=train, name="norm_head", **options)
        x = x[:, 0] if self.pooling == "token" else x.mean(axis=1)  # [N, A]
        return nn.Dense(self.num_outputs, name="head", **options)(x)  # [N, O]

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        return residual_stages(
            x,
            self.stem_stages,
            remat=self.remat,
            features=self.stem_features,
            train=train,
            bottleneck=True,
            norm=self.stem_norm,
            activation="relu",
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    def _add_positions(self, x: jax.Array) -> jax.Array:
        """Puts the class token, if there is one, before x [N, T, A], and adds the positions."""
        normal = nn.initializers.normal(0.02)
        if self.pooling == "token":
            token = self.param("class_token", normal, (1, 1, self.width), self.param_dtype)
            tokens = jnp.tile(token.astype(x.dtype), (x.shape[0], 1, 1))
            x = jnp.concatenate([tokens, x], axis=1)
        shape = (1, *x.shape[1:])
        return x + self.param("positions", normal, shape, self.param_dtype).astype(x.dtype)


_SIZES: Mapping[str, dict[str, Any]] = {
    "ti": {"width": 192, "num_heads": 3},
    "s": {"width": 384, "num_heads": 6},
    "b": {"width": 768, "num_heads": 12},
    "l": {"width": 1024, "num_heads": 16, "depth": 24},
}

VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        **{
            f"vit-{size}/{patch}": {"patch_size": patch, **attributes}
            for size, attributes in _SIZES.items()
            for patch in (16, 32)
        },
        "r50+vit-b/16": {"stem_stages": (3, 4, 9), "patch_size": 1, **_SIZES["b"]},
        "r26+vit-s/32": {"stem_stages": (2, 2, 2, 2), "patch_size": 1, **_SIZES["s"]},
        "r50+vit-l/32": {"stem_stages": (3, 4, 6, 3), "patch_size": 1, **_SIZES["l"]},
    }
)
"""By name, what differs from the defaults."""
