"""Residual networks for ImageNet.

    h = phi(x' + F(x)),    F = norm(W * phi(norm(W * x)))  or, as a bottleneck,  1 x 1, 3 x 3, 1 x 1

where x' is x, or a norm of a 1 x 1 convolution of x if the shape changes (K. He, X. Zhang, S. Ren,
J. Sun, *Deep Residual Learning for Image Recognition*, CVPR 2016, equations 1 and 2, table 1; 200
layers in their *Identity Mappings in Deep Residual Networks*, ECCV 2016, with the blocks of the
former here). A stage is halved by the 3 x 3 convolution of its first block, as is usual since.
The wide ones have twice the channels in the 3 x 3 convolutions (S. Zagoruyko, N. Komodakis, *Wide
Residual Networks*, BMVC 2016, table 8). Weights are drawn after K. He et al., *Delving Deep into
Rectifiers*, ICCV 2015, equation 14: variance 2 / fan-out. In evaluation mode the running statistics
are constants, and `params` alone are differentiated.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax

from ntk_train._registry import lookup
from ntk_train.models.parts import activation_fn, check_images, normalize

HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, or a bottleneck, and a shortcut.

    Attributes:
      features: B; a bottleneck returns 4 B.
      train: whether "batch" norm uses the statistics of this batch.
      strides: of the first 3 x 3 convolution and of the shortcut.
      bottleneck: whether it is one.
      widen: how many times B channels the 3 x 3 convolution of a bottleneck has.
      norm: "batch", "group", "layer" or "none".
      activation: a name of `ntk_train.models.parts.ACTIVATIONS`, or a function.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.
    """

    features: int
    train: bool
    strides: int = 1
    bottleneck: bool = False
    widen: int = 1
    norm: str = "batch"
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [N, height / strides, width / strides, B or 4 B]."""
        act = activation_fn(self.activation)
        inner, outputs = self.features, self.features
        if self.bottleneck:
            inner, outputs = self.widen * self.features, 4 * self.features
            h = act(self._conv_norm("1", x, inner, 1))
            h = act(self._conv_norm("2", h, inner, 3, self.strides))
            h = self._conv_norm("3", h, outputs, 1)
        else:
            h = act(self._conv_norm("1", x, inner, 3, self.strides))
            h = self._conv_norm("2", h, outputs, 3)
        if self.strides != 1 or x.shape[-1] != outputs:
            x = self._conv_norm("shortcut", x, outputs, 1, self.strides)
        return act(x + h)

    def _conv_norm(
        self, name: str, x: jax.Array, features: int, kernel: int, strides: int = 1
    ) -> jax.Array:
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = conv(features, kernel, strides, name=f"conv_{name}", **options)(x)
        return normalize(x, self.norm, train=self.train, name=f"norm_{name}", **options)


def conv(features: int, kernel: int, strides: int, **options: Any) -> nn.Module:
    """A square convolution without biases, drawn after He et al."""
    sizes = (kernel, kernel), (strides, strides)
    return nn.Conv(features, *sizes, use_bias=False, kernel_init=HE_NORMAL, **options)


def _imagenet_stem(x: jax.Array, features: int, **options: Any) -> jax.Array:
    return conv(features, 7, 2, name="conv_stem", **options)(x)


def _cifar_stem(x: jax.Array, features: int, **options: Any) -> jax.Array:
    return conv(features, 3, 1, name="conv_stem", **options)(x)


STEMS = {"imagenet": _imagenet_stem, "cifar": _cifar_stem}


def residual_stages(
    x: jax.Array,
    stages: Sequence[int],
    *,
    stem: str = "imagenet",
    remat: bool = False,
    **attributes: Any,
) -> jax.Array:
    """The stem and the residual blocks; to be called inside a compact Linen module.

    Args:
      x: images [N, height, width, A].
      stages: the number of blocks in each stage.
      stem: "imagenet", 7 x 7 convolution and pooling, both halving, or "cifar", one of 3 x 3.
      remat: whether a backward pass computes a block again in place of keeping its activations.
      **attributes: of `ResidualBlock`; its features are those of the first stage, doubled in each.

    Returns:
      [N, height / 2**s, width / 2**s, B], with s = len(stages) + 1 behind the "imagenet" stem.

    Raises:
      ValueError: x is no batch of images, or there is no such stem.
    """
    check_images(x.shape)
    features = attributes.pop("features")
    options = {name: attributes[name] for name in ("dtype", "param_dtype")}
    x = lookup(STEMS, stem, "stem")(x, features, **options)
    x = normalize(x, attributes["norm"], train=attributes["train"], name="norm_stem", **options)
    x = activation_fn(attributes["activation"])(x)
    if stem == "imagenet":
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
    block = nn.remat(ResidualBlock) if remat else ResidualBlock
    for stage, blocks in enumerate(stages):
        for index in range(blocks):
            x = block(
                features=features * 2**stage,
                strides=2 if stage > 0 and index == 0 else 1,
                name=f"stage_{stage}_block_{index}",
                **attributes,
            )(x)
    return x


class ResNet(nn.Module):
    """A residual network on images [N, height, width, A].

    Attributes:
      num_outputs: O.
      stages: the number of blocks in each stage.
      bottleneck: whether blocks are 1 x 1, 3 x 3, 1 x 1 convolutions, or two of 3 x 3.
      features: channels of the first stage; each later stage has twice as many.
      widen: how many times the channels the 3 x 3 convolutions of bottlenecks have.
      norm: "batch", "group", "layer" or "none".
      activation: a name of `ntk_train.models.parts.ACTIVATIONS`, or a function.
      stem: "imagenet", which halves images twice, or "cifar", which does not.
      remat: whether a backward pass computes blocks again in place of keeping activations.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.
    """

    num_outputs: int = 1000
    stages: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    features: int = 64
    widen: int = 1
    norm: str = "batch"
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    stem: str = "imagenet"
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns logits [N, O].

        Args:
          x: images [N, height, width, A].
          train: whether "batch" norm uses, and updates from, the statistics of this batch.

        Raises:
          ValueError: x is no batch of images, or an attribute is none of those above.
        """
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = residual_stages(
            x,
            self.stages,
            stem=self.stem,
            remat=self.remat,
            features=self.features,
            train=train,
            bottleneck=self.bottleneck,
            widen=self.widen,
            norm=self.norm,
            activation=self.activation,
            **options,
        )
        return nn.Dense(self.num_outputs, name="head", **options)(x.mean(axis=(1, 2)))  # [N, O]


VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "resnet-18": {"stages": (2, 2, 2, 2)},
        "resnet-34": {"stages": (3, 4, 6, 3)},
        "resnet-50": {"stages": (3, 4, 6, 3), "bottleneck": True},
        "resnet-101": {"stages": (3, 4, 23, 3), "bottleneck": True},
        "resnet-152": {"stages": (3, 8, 36, 3), "bottleneck": True},
        "resnet-200": {"stages": (3, 24, 36, 3), "bottleneck": True},
        "wide-resnet-50-2": {"stages": (3, 4, 6, 3), "bottleneck": True, "widen": 2},
        "wide-resnet-101-2": {"stages": (3, 4, 23, 3), "bottleneck": True, "widen": 2},
    }
)
"""By name, what differs from the defaults."""
