"""Fully connected networks.

    h_0 = x (flattened),    h_l = phi(W_l h_{l-1} + b_l),    f(x) = W_{L+1} h_L + b_{L+1}

with weights drawn at variance 1 / fan-in, LeCun's initialisation, and biases zero (Y. LeCun,
L. Bottou, G. B. Orr, K.-R. Müller, *Efficient BackProp*, 1998, section 4.6).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from ntk_train.models.parts import activation_fn


class FCN(nn.Module):
    """A fully connected network; inputs of any shape [N, ...] are flattened to [N, A].

    Attributes:
      num_outputs: O.
      widths: the width of each hidden layer; one integer is the width of all `depth` layers.
      depth: the number of hidden layers where `widths` is one integer; unused otherwise.
      activation: a name of `ntk_train.models.parts.ACTIVATIONS`, or a function.
      use_bias: whether layers have biases.
      dtype: of the computation, None for that of inputs and parameters.
      param_dtype: of the parameters.
    """

    num_outputs: int = 10
    widths: tuple[int, ...] | int = (128, 128)
    depth: int = 2
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns logits [N, O]; `train` changes nothing, as no layer depends on it."""
        del train
        activation = activation_fn(self.activation)
        widths = (self.widths,) * self.depth if isinstance(self.widths, int) else self.widths
        options = {
            "use_bias": self.use_bias,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        x = x.reshape(x.shape[0], -1)  # [N, A]
        for width in widths:
            x = activation(nn.Dense(width, **options)(x))  # [N, width]
        return nn.Dense(self.num_outputs, **options)(x)  # [N, O]
