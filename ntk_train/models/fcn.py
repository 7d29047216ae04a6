"""Fully connected networks.

    h_0 = x (flattened),    h_l = phi(W_l h_{l-1} + b_l),    f(x) = W_{L+1} h_L + b_{L+1}

By default weights are drawn at variance 1 / fan-in, LeCun's initialisation, and biases are zero
(Y. LeCun, L. Bottou, G. B. Orr, K.-R. Müller, *Efficient BackProp*, 1998, section 4.6). ReLU keeps
the size of activations with sigma_w = sqrt(2). The NTK parameterisation is in `layers.py`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax

from ntk_train.models.layers import Layers
from ntk_train.models.parts import activation_fn


class FCN(nn.Module):
    """A fully connected network; inputs of any shape [N, ...] are flattened to [N, A].

    Attributes:
      num_outputs: O.
      widths: the width of each hidden layer; one integer is the width of all `depth` layers.
      depth: the number of hidden layers where `widths` is one integer; unused otherwise.
      activation: a name of `ntk_train.models.parts.ACTIVATIONS`, or a function.
      parameterization: "standard" or "ntk".
      sigma_w: weights have variance sigma_w^2 / fan-in.
      sigma_b: biases have variance sigma_b^2.
      use_bias: whether layers have biases; in the NTK parameterisation only if sigma_b is not 0.
      remat: whether a backward pass computes activations again in place of keeping them.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.
    """

    num_outputs: int = 10
    widths: tuple[int, ...] | int = (128, 128)
    depth: int = 2
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    parameterization: str = "standard"
    sigma_w: float = 1.0
    sigma_b: float = 0.0
    use_bias: bool = True
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns logits [N, O]; `train` changes nothing, as no layer depends on it."""
        del train
        widths = (self.widths,) * self.depth if isinstance(self.widths, int) else self.widths
        hidden = nn.remat(FCN._hidden, static_argnums=(2, 3)) if self.remat else FCN._hidden
        x = x.reshape(x.shape[0], -1)  # [N, A]
        for index, width in enumerate(widths):
            x = hidden(self, x, width, index)  # [N, width]
        return self._dense(self.num_outputs, len(widths))(x)  # [N, O]

    def _hidden(self, x: jax.Array, width: int, index: int) -> jax.Array:
        return activation_fn(self.activation)(self._dense(width, index)(x))

    def _dense(self, features: int, index: int) -> nn.Module:
        layers = Layers(
            self.parameterization, self.sigma_w, self.sigma_b, self.dtype, self.param_dtype
        )
        return layers.dense(features, use_bias=self.use_bias, name=f"Dense_{index}")


VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"fcn": {}})
"""By name, what differs from the defaults."""
