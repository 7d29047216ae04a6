"""Plain convolutional networks: stages of convolution, norm, activation and pooling.

    h_l = phi(norm(W_l * h_{l-1} + b_l)), pooled at the end of a stage;    f(x) = V head(h_L) + c

whose head is the mean over positions (M. Lin, Q. Chen, S. Yan, *Network In Network*, ICLR 2014,
section 3.2), so that any image size fits, or the features of all positions.

`cnn20` has the 20 layers of the plain network of K. He et al., *Deep Residual Learning for Image
Recognition*, CVPR 2016, section 4.2: 7, 6 and 6 convolutions of 16, 32 and 64 channels and a dense
layer, for images of 32 x 32. `conv-4` has the four blocks of convolution, norm, ReLU and pooling
that O. Vinyals et al., *Matching Networks for One Shot Learning*, NeurIPS 2016, section 4.1.1,
use on the 84 x 84 images of MiniImageNet. The NTK parameterisation is in `layers.py`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax

from ntk_train._registry import lookup
from ntk_train.models.layers import Layers
from ntk_train.models.parts import activation_fn, check_images, normalize

_POOLS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "none": lambda x: x,
    "max": lambda x: nn.max_pool(x, (2, 2), strides=(2, 2)),
    "avg": lambda x: nn.avg_pool(x, (2, 2), strides=(2, 2)),
    "stride": lambda x: x,
}
_HEADS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "mean": lambda x: x.mean(axis=(1, 2)),
    "flatten": lambda x: x.reshape(x.shape[0], -1),
}


class CNN(nn.Module):
    """A convolutional network on images [N, height, width, A].

    Attributes:
      num_outputs: O.
      features: the number of channels of each stage.
      depth: the number of convolutions in a stage, one for all or one for each.
      kernel_size: of the convolutions, on a side.
      activation: a name of `ntk_train.models.parts.ACTIVATIONS`, or a function.
      norm: "none", "batch", "layer" or "group", before each activation.
      pooling: "max" or "avg", of 2 x 2 positions at the end of each stage; "stride", by the first
        convolution of each stage but the first; or "none".
      head: "mean" of the positions, or "flatten".
      parameterization: "standard" or "ntk".
      sigma_w: weights have variance sigma_w^2 / fan-in.
      sigma_b: biases have variance sigma_b^2.
      use_bias: whether layers have biases; in the NTK parameterisation only if sigma_b is not 0.
      conv_bias: False leaves biases to the last layer, where a norm has its own for example.
      remat: whether a backward pass computes activations again in place of keeping them.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.
    """

    num_outputs: int = 10
    features: tuple[int, ...] = (16, 32)
    depth: int | tuple[int, ...] = 1
    kernel_size: int = 3
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: str = "none"
    pooling: str = "max"
    head: str = "mean"
    parameterization: str = "standard"
    sigma_w: float = 1.0
    sigma_b: float = 0.0
    use_bias: bool = True
    conv_bias: bool = True
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns logits [N, O].

        Args:
          x: images [N, height, width, A]; height and width at least 2**len(features) with "max"
            and "avg" pooling.
          train: whether "batch" norm uses, and updates from, the statistics of this batch.

        Raises:
          ValueError: x is no batch of images or too small for so many poolings, or an attribute
            is none of those above.
        """
        pool, head = lookup(_POOLS, self.pooling, "pooling"), lookup(_HEADS, self.head, "head")
        depths = (self.depth,) * len(self.features) if isinstance(self.depth, int) else self.depth
        self._check(x.shape, depths)
        conv = nn.remat(CNN._conv, static_argnums=(2, 3, 4, 5)) if self.remat else CNN._conv
        index = 0
        for stage, (features, depth) in enumerate(zip(self.features, depths, strict=True)):
            for i in range(depth):
                strides = 2 if self.pooling == "stride" and stage > 0 and i == 0 else 1
                x = conv(self, x, features, strides, index, train)
                index += 1
            x = pool(x)  # [N, height / 2, width / 2, features]
        last = self._layers().dense(self.num_outputs, use_bias=self.use_bias, name="Dense_0")
        return last(head(x))  # [N, O]

    def _conv(
        self, x: jax.Array, features: int, strides: int, index: int, train: bool
    ) -> jax.Array:
        use_bias, name = self.use_bias and self.conv_bias, f"Conv_{index}"
        layers = self._layers()
        conv = layers.conv(features, self.kernel_size, strides, use_bias=use_bias, name=name)
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = normalize(conv(x), self.norm, train=train, **options)
        return activation_fn(self.activation)(x)

    def _layers(self) -> Layers:
        return Layers(
            self.parameterization, self.sigma_w, self.sigma_b, self.dtype, self.param_dtype
        )

    def _check(self, shape: tuple[int, ...], depths: tuple[int, ...]) -> None:
        if len(depths) != len(self.features):
            msg = (
                f"depth={depths} and features={self.features} have {len(depths)} and "
                f"{len(self.features)} entries; expected one of each for each stage."
            )
            raise ValueError(msg)
        check_images(shape)
        smallest = 2 ** len(self.features) if self.pooling in ("max", "avg") else 1
        if min(shape[1:3]) < smallest:
            msg = (
                f"x has images of {shape[1]} x {shape[2]}; {len(self.features)} stages with "
                f"pooling={self.pooling!r} need at least {smallest} x {smallest}. Take fewer "
                "features or pooling='none'."
            )
            raise ValueError(msg)


VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "cnn": {},
        "cnn20": {
            "features": (16, 32, 64),
            "depth": (7, 6, 6),
            "norm": "batch",
            "pooling": "stride",
            "conv_bias": False,
            "sigma_w": 2**0.5,
        },
        "conv-4": {"features": (64, 64, 64, 64), "norm": "batch", "head": "flatten"},
    }
)
"""By name, what differs from the defaults."""
