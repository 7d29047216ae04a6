"""Wide residual networks for CIFAR, WRN-d-k.

    h = x' + W_2 * phi(norm(W_1 * phi(norm(x)))),    f(x) = V mean_t phi(norm(h_L)) + c

with pre-activation blocks (S. Zagoruyko, N. Komodakis, *Wide Residual Networks*, BMVC 2016, table
1; dropout between the convolutions, section 2.4): three stages of 16 k, 32 k and 64 k channels with
(d - 4) / 6 blocks each. x' is x, or a 1 x 1 convolution of phi(norm(x)) where the number of
channels changes. Weights are drawn at variance 2 / fan-out, as in `resnet.py`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax

from ntk_train.models.parts import activation_fn, check_images, normalize
from ntk_train.models.resnet import conv


class WideBlock(nn.Module):
    """Two 3 x 3 convolutions after norm and activation, and a shortcut.

    Attributes:
      features: B.
      train: whether "batch" norm uses the statistics of this batch, and dropout is on.
      strides: of the first convolution and of the shortcut.
      dropout_rate: between the convolutions.
      norm: "batch", "group", "layer" or "none".
      activation: a name of `ntk_train.models.parts.ACTIVATIONS`, or a function.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.
    """

    features: int
    train: bool
    strides: int = 1
    dropout_rate: float = 0.0
    norm: str = "batch"
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [N, height / strides, width / strides, B]."""
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        act = activation_fn(self.activation)
        h = act(normalize(x, self.norm, train=self.train, name="norm_1", **options))
        if self.strides != 1 or x.shape[-1] != self.features:
            x = conv(self.features, 1, self.strides, name="conv_shortcut", **options)(h)
        h = conv(self.features, 3, self.strides, name="conv_1", **options)(h)
        h = act(normalize(h, self.norm, train=self.train, name="norm_2", **options))
        h = nn.Dropout(self.dropout_rate, deterministic=not self.train)(h)
        return x + conv(self.features, 3, 1, name="conv_2", **options)(h)


class WideResNet(nn.Module):
    """WRN-d-k on images [N, height, width, A].

    Attributes:
      num_outputs: O.
      depth: d, 4 more than a multiple of 6.
      widen_factor: k.
      features: channels of the stem, and of the first stage before widening.
      dropout_rate: between the convolutions of a block, in train mode.
      norm: "batch", "group", "layer" or "none".
      activation: a name of `ntk_train.models.parts.ACTIVATIONS`, or a function.
      remat: whether a backward pass computes blocks again in place of keeping activations.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.
    """

    num_outputs: int = 10
    depth: int = 28
    widen_factor: int = 10
    features: int = 16
    dropout_rate: float = 0.0
    norm: str = "batch"
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns logits [N, O].

        Args:
          x: images [N, height, width, A].
          train: whether "batch" norm uses, and updates from, the statistics of this batch, and
            dropout is on.

        Raises:
          ValueError: x is no batch of images, or an attribute is none of those above.
        """
        check_images(x.shape)
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        block = nn.remat(WideBlock) if self.remat else WideBlock
        x = conv(self.features, 3, 1, name="conv_stem", **options)(x)
        for stage in range(3):
            for index in range(self._blocks()):
                x = block(
                    features=self.features * self.widen_factor * 2**stage,
                    train=train,
                    strides=2 if stage > 0 and index == 0 else 1,
                    dropout_rate=self.dropout_rate,
                    norm=self.norm,
                    activation=self.activation,
                    name=f"stage_{stage}_block_{index}",
                    **options,
                )(x)
        x = normalize(x, self.norm, train=train, name="norm_last", **options)
        x = activation_fn(self.activation)(x).mean(axis=(1, 2))
        return nn.Dense(self.num_outputs, name="head", **options)(x)  # [N, O]

    def _blocks(self) -> int:
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or blocks < 1:
            msg = f"depth={self.depth}; expected 4 more than a multiple of 6: 10, 16, 22, 28, 40."
            raise ValueError(msg)
        return blocks


VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        f"wrn-{depth}-{factor}": {"depth": depth, "widen_factor": factor}
        for depth, factor in ((16, 4), (16, 8), (16, 10), (28, 10), (40, 2), (40, 4))
    }
)
"""By name, what differs from the defaults."""
