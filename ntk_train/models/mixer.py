"""MLP-Mixer: patches mixed by one MLP over tokens and one over channels.

    U = X + W_2 gelu(W_1 norm(X)),  Y = U + gelu(norm(U) W_3) W_4,  f(x) = V mean_t norm(Y_L) + c

(I. Tolstikhin et al., *MLP-Mixer: An all-MLP Architecture for Vision*, NeurIPS 2021, equation 1 and
table 1). The size of the images is fixed by the first one, which parameters are made for.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax

from ntk_train.models.parts import MLP, embed_patches, normalize, repeat


class MixerBlock(nn.Module):
    """An MLP over tokens and one over channels, each after a norm and beside a shortcut.

    Attributes:
      tokens_dim: hidden features of the MLP over tokens (D_S).
      channels_dim: hidden features of the MLP over channels (D_C).
      train: whether dropout is on.
      dropout_rate: within the MLPs.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.
    """

    tokens_dim: int
    channels_dim: int
    train: bool
    dropout_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, None]:
        """Returns tokens [N, T, A] and None, as a scan wants it."""
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = normalize(x, "layer", train=self.train, name="norm_tokens", **options).swapaxes(
            1, 2
        )  # [N, A, T]
        h = MLP(self.tokens_dim, self.dropout_rate, name="tokens", **options)(h, self.train)
        x = x + h.swapaxes(1, 2)
        h = normalize(x, "layer", train=self.train, name="norm_channels", **options)
        mlp = MLP(self.channels_dim, self.dropout_rate, name="channels", **options)
        return x + mlp(h, self.train), None


class Mixer(nn.Module):
    """An MLP-Mixer on images [N, height, width, A]; the defaults are those of Mixer-S/16.

    Attributes:
      num_outputs: O.
      patch_size: pixels on the side of a patch.
      width: features of a token (C).
      depth: blocks.
      tokens_dim: hidden features of the MLPs over tokens (D_S).
      channels_dim: hidden features of the MLPs over channels (D_C).
      dropout_rate: within the MLPs, in train mode.
      remat: whether a backward pass computes blocks again in place of keeping activations.
      scan_layers: whether blocks are one loop over stacked parameters, quicker to compile.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.
    """

    num_outputs: int = 1000
    patch_size: int = 16
    width: int = 512
    depth: int = 8
    tokens_dim: int = 256
    channels_dim: int = 2048
    dropout_rate: float = 0.0
    remat: bool = False
    scan_layers: bool = False
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns logits [N, O].

        Args:
          x: images [N, height, width, A], always of the size with which parameters were made.
          train: whether dropout is on; it takes the stream "dropout".

        Raises:
          ValueError: x is no batch of images that patches tile.
        """
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = embed_patches(x, self.patch_size, self.width, **options)  # [N, T, A]
        x = repeat(
            MixerBlock,
            x,
            self.depth,
            remat=self.remat,
            scan=self.scan_layers,
            tokens_dim=self.tokens_dim,
            channels_dim=self.channels_dim,
            train=train,
            dropout_rate=self.dropout_rate,
            **options,
        )
        x = normalize(x, "layer", train=train, name="norm_head", **options).mean(axis=1)  # [N, A]
        return nn.Dense(self.num_outputs, name="head", **options)(x)  # [N, O]


_SIZES: Mapping[str, dict[str, Any]] = {
    "s": {"width": 512, "depth": 8, "tokens_dim": 256, "channels_dim": 2048},
    "b": {"width": 768, "depth": 12, "tokens_dim": 384, "channels_dim": 3072},
    "l": {"width": 1024, "depth": 24, "tokens_dim": 512, "channels_dim": 4096},
}

VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        f"mixer-{size}/{patch}": {"patch_size": patch, **attributes}
        for size, attributes in _SIZES.items()
        for patch in (16, 32)
    }
)
"""By name, what differs from the defaults."""
