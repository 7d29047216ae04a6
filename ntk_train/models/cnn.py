"""Plain convolutional networks: stages of convolution, norm, activation and pooling.

    h_l = pool(phi(norm(W_l * h_{l-1} + b_l))),    f(x) = V mean_t h_L[t] + c

with 3 x 3 convolutions and the mean over positions t before the last layer (M. Lin, Q. Chen,
S. Yan, *Network In Network*, ICLR 2014, section 3.2), so that any image size fits.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from ntk_train._registry import lookup
from ntk_train.models.parts import activation_fn, normalize

_POOLS = {
    "none": lambda x: x,
    "max": lambda x: nn.max_pool(x, (2, 2), strides=(2, 2)),
    "avg": lambda x: nn.avg_pool(x, (2, 2), strides=(2, 2)),
}


class CNN(nn.Module):
    """A convolutional network on images [N, height, width, A].

    Attributes:
      num_outputs: O.
      features: the number of channels of each stage.
      activation: a name of `ntk_train.models.parts.ACTIVATIONS`, or a function.
      norm: "none", "batch", "layer" or "group", before each activation.
      pooling: "max", "avg" or "none", of 2 x 2 positions at the end of each stage.
      use_bias: whether convolutions and the last layer have biases.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.
    """

    num_outputs: int = 10
    features: tuple[int, ...] = (16, 32)
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: str = "none"
    pooling: str = "max"
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns logits [N, O].

        Args:
          x: images [N, height, width, A]; height and width at least 2**len(features) with pooling.
          train: whether "batch" norm uses, and updates from, the statistics of this batch.

        Raises:
          ValueError: x is no batch of images, or too small for so many poolings.
        """
        self._check(x.shape)
        activation, pool = activation_fn(self.activation), lookup(_POOLS, self.pooling, "pooling")
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for features in self.features:
            x = nn.Conv(features, (3, 3), use_bias=self.use_bias, **options)(x)
            x = normalize(x, self.norm, train=train, **options)
            x = pool(activation(x))  # [N, height / 2, width / 2, features]
        x = x.mean(axis=(1, 2))  # [N, B]
        return nn.Dense(self.num_outputs, use_bias=self.use_bias, **options)(x)  # [N, O]

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 4:
            msg = f"x has shape {shape}; CNN takes images [N, height, width, channels]."
            raise ValueError(msg)
        smallest = 1 if self.pooling == "none" else 2 ** len(self.features)
        if min(shape[1:3]) < smallest:
            msg = (
                f"x has images of {shape[1]} x {shape[2]}; {len(self.features)} stages with "
                f"pooling={self.pooling!r} need at least {smallest} x {smallest}. Take fewer "
                "features or pooling='none'."
            )
            raise ValueError(msg)
