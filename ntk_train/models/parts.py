"""What the families share: activations and normalisation, chosen by name."""

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


def normalize(x: jax.Array, norm: str, *, train: bool, dtype: Any, param_dtype: Any) -> jax.Array:
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

    Raises:
      ValueError: no such norm.
    """
    layers: dict[str, Callable[..., Callable[[jax.Array], jax.Array]]] = {
        "none": lambda **_: lambda x: x,
        "batch": lambda **kw: nn.BatchNorm(use_running_average=not train, momentum=0.9, **kw),
        "layer": nn.LayerNorm,
        "group": lambda **kw: nn.GroupNorm(num_groups=math.gcd(32, x.shape[-1]), **kw),
    }
    return lookup(layers, norm, "norm")(dtype=dtype, param_dtype=param_dtype)(x)
