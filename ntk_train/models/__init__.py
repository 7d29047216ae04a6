"""Networks in Flax Linen, one file per family, by name.

Each is called as `model.apply(variables, x, train=False)` with images or features `x`, examples on
axis 0, and returns logits [N, num_outputs]. With `train=False` the outputs of an example depend on
that example alone. To add a family: write its file, and enter it in `MODELS`.

>>> import jax, jax.numpy as jnp, ntk_train.models
>>> model = ntk_train.models.create_model("fcn", num_outputs=3, widths=(16,))
>>> variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
>>> model.apply(variables, jnp.zeros((5, 8, 8, 1)), train=False).shape
(5, 3)
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn

from ntk_train._registry import lookup, unknown
from ntk_train.models.cnn import CNN as CNN
from ntk_train.models.fcn import FCN as FCN

MODELS: Mapping[str, type[nn.Module]] = MappingProxyType({"cnn": CNN, "fcn": FCN})
"""The families by name."""


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Makes the model of that name.

    Args:
      name: a key of `MODELS`.
      **overrides: attributes that differ from the family's defaults, `num_outputs` for example.

    Raises:
      ValueError: no such model, or it has no such attribute; the text lists what there is.
    """
    family = lookup(MODELS, name, "model")
    known = _attributes(family)
    for key in overrides:
        if key not in known:
            raise ValueError(unknown(f"attribute of model {name!r}:", key, known))
    return family(**overrides)


def model_defaults(name: str) -> dict[str, Any]:
    """The attributes of a family with their defaults, for a config; without `num_outputs`.

    Raises:
      ValueError: no such model.
    """
    defaults = _attributes(lookup(MODELS, name, "model"))
    del defaults["num_outputs"]  # the data set decides
    return defaults


def _attributes(family: type[nn.Module]) -> dict[str, Any]:
    """Attributes of a Linen module with their defaults, without Linen's own."""
    return {
        field.name: field.default
        for field in dataclasses.fields(family)
        if field.name not in ("parent", "name")
    }
