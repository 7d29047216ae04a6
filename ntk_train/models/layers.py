"""Dense and convolutional layers in the standard or the NTK parameterisation.

    standard:  y = W x + b,                            W ~ N(0, sigma_w^2 / A), b ~ N(0, sigma_b^2)
    ntk:       y = sigma_w / sqrt(A) W x + sigma_b b,  W ~ N(0, 1),             b ~ N(0, 1)

with A inputs to each output. Both draw the same functions; they differ in what a step of gradient
descent does, and so in the kernel: only that of the second one has a limit at infinite width
(A. Jacot, F. Gabriel, C. Hongler, *Neural Tangent Kernel: Convergence and Generalization in Neural
Networks*, NeurIPS 2018, equation 1 and remark 1; J. Lee et al., *Wide Neural Networks of Any Depth
Evolve as Linear Models Under Gradient Descent*, NeurIPS 2019, equation 1). The standard one
truncates the normal distribution at two standard deviations and keeps its variance, as Linen does.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ntk_train._registry import lookup

PARAMETERIZATIONS = {"standard": False, "ntk": True}


class NTKDense(nn.Module):
    """sigma_w / sqrt(A) W x + sigma_b b, W [A, B] and b [B] standard normal.

    Attributes:
      features: B.
      sigma_w: of the weights.
      sigma_b: of the biases; there are none if it is 0.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.
    """

    features: int
    sigma_w: float = 1.0
    sigma_b: float = 0.0
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [N, ..., B] for x [N, ..., A]."""
        normal, shape = nn.initializers.normal(1.0), (x.shape[-1], self.features)
        kernel = self.param("kernel", normal, shape, self.param_dtype)  # [A, B]
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        y = self.sigma_w / math.sqrt(shape[0]) * (x @ kernel)
        return _add_bias(self, y)


class NTKConv(nn.Module):
    """The same as a convolution; A is the number of channels times that of kernel positions.

    Attributes:
      features: B.
      kernel_size: of the kernel.
      strides: of the kernel.
      sigma_w: of the weights.
      sigma_b: of the biases; there are none if it is 0.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    sigma_w: float = 1.0
    sigma_b: float = 0.0
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [N, height, width, B] for x [N, height, width, channels]."""
        normal, shape = nn.initializers.normal(1.0), (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", normal, shape, self.param_dtype)  # [height, width, A, B]
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, self.strides, "SAME", dimension_numbers=layout)
        return _add_bias(self, self.sigma_w / math.sqrt(math.prod(shape[:-1])) * y)


def _add_bias(layer: NTKDense | NTKConv, y: jax.Array) -> jax.Array:
    """Adds sigma_b b to y [N, ..., B], where there is one; to be called in a compact module."""
    if layer.sigma_b == 0:
        return y
    normal = nn.initializers.normal(1.0)
    bias = layer.param("bias", normal, (layer.features,), layer.param_dtype)
    return y + layer.sigma_b * jnp.asarray(bias, y.dtype)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Makes the layers of one network.

    Attributes:
      parameterization: "standard" or "ntk".
      sigma_w: of the weights.
      sigma_b: of the biases. In the NTK parameterisation there are none if it is 0.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.

    Raises:
      ValueError: no such parameterisation.
    """

    parameterization: str = "standard"
    sigma_w: float = 1.0
    sigma_b: float = 0.0
    dtype: Any = None
    param_dtype: Any = "float32"

    def __post_init__(self) -> None:
        lookup(PARAMETERIZATIONS, self.parameterization, "parameterization")

    def dense(self, features: int, *, use_bias: bool, name: str) -> nn.Module:
        """A layer to B features of x [N, ..., A]."""
        if PARAMETERIZATIONS[self.parameterization]:
            return NTKDense(features, name=name, **self._ntk(use_bias))
        return nn.Dense(features, name=name, **self._standard(use_bias))

    def conv(
        self, features: int, kernel_size: int, strides: int = 1, *, use_bias: bool, name: str
    ) -> nn.Module:
        """A square convolution of images, padded with zeros to their own size over the strides."""
        sizes = (kernel_size, kernel_size), (strides, strides)
        if PARAMETERIZATIONS[self.parameterization]:
            return NTKConv(features, *sizes, name=name, **self._ntk(use_bias))
        return nn.Conv(features, *sizes, name=name, **self._standard(use_bias))

    def _ntk(self, use_bias: bool) -> dict[str, Any]:
        return {
            "sigma_w": self.sigma_w,
            "sigma_b": self.sigma_b if use_bias else 0.0,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }

    def _standard(self, use_bias: bool) -> dict[str, Any]:
        init = nn.initializers
        return {
            "use_bias": use_bias,
            "kernel_init": init.variance_scaling(self.sigma_w**2, "fan_in", "truncated_normal"),
            "bias_init": init.normal(self.sigma_b) if self.sigma_b else init.zeros,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
