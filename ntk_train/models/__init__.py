"""Networks in Flax Linen, one file per family, by name.

Each is called as `model.apply(variables, x, train=False)` with images or features `x`, examples on
axis 0, and returns logits [N, num_outputs]. With `train=False` the outputs of an example depend on
that example alone. `train=True` takes the stream "dropout" where there is dropout, and updates the
collection "batch_stats" where there is batch norm. Parameters are plain arrays; `logical_axes` and
`partition_specs` say how to lay them out over devices.

To add a family: write its file, with its variants, and enter it in `FAMILIES`.

>>> import jax, jax.numpy as jnp, ntk_train.models
>>> model = ntk_train.models.create_model("fcn", num_outputs=3, widths=(16,))
>>> variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
>>> model.apply(variables, jnp.zeros((5, 8, 8, 1)), train=False).shape
(5, 3)
>>> [name for name in ntk_train.models.MODELS if name.startswith("vit-s")]
['vit-s/16', 'vit-s/32']
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn

from ntk_train._arguments import whole_number
from ntk_train._registry import lookup, unknown
from ntk_train.models import cnn, fcn, mixer, resnet, vit, wide_resnet
from ntk_train.models.cnn import CNN as CNN
from ntk_train.models.fcn import FCN as FCN
from ntk_train.models.mixer import Mixer as Mixer
from ntk_train.models.resnet import ResNet as ResNet
from ntk_train.models.sharding import logical_axes as logical_axes
from ntk_train.models.sharding import partition_specs as partition_specs
from ntk_train.models.vit import ViT as ViT
from ntk_train.models.wide_resnet import WideResNet as WideResNet


class Variant(NamedTuple):
    """A family, and the attributes in which a model of that name differs from its defaults."""

    family: type[nn.Module]
    attributes: Mapping[str, Any]


FAMILIES: Mapping[type[nn.Module], Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        FCN: fcn.VARIANTS,
        CNN: cnn.VARIANTS,
        ResNet: resnet.VARIANTS,
        WideResNet: wide_resnet.VARIANTS,
        ViT: vit.VARIANTS,
        Mixer: mixer.VARIANTS,
    }
)
"""The families with their variants."""

MODELS: Mapping[str, Variant] = MappingProxyType(
    {
        name: Variant(family, attributes)
        for family, variants in FAMILIES.items()
        for name, attributes in variants.items()
    }
)
"""The models by name."""


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Makes the model of that name.

    Args:
      name: a key of `MODELS`.
      **overrides: attributes that differ from the model's, `num_outputs` for example.

    Raises:
      ValueError: no such model, or it has no such attribute, and the text lists what there is; or
        a size is no whole number, or below 1 (a depth may be 0).
    """
    family, attributes = lookup(MODELS, name, "model")
    known = _attributes(family)
    for key in overrides:
        if key not in known:
            raise ValueError(unknown(f"attribute of model {name!r}:", key, known))
    sizes = {key: _checked(key, value, known[key]) for key, value in overrides.items()}
    return family(**{**attributes, **sizes})


def model_defaults(name: str) -> dict[str, Any]:
    """The attributes of a model with their defaults, for a config; without `num_outputs`.

    Raises:
      ValueError: no such model.
    """
    family, attributes = lookup(MODELS, name, "model")
    defaults = {**_attributes(family), **attributes}
    del defaults["num_outputs"]  # the data set decides
    return defaults


def _checked(key: str, value: Any, default: Any) -> Any:
    """An attribute as it is, or as whole numbers if it is a size or several."""
    defaults = default if isinstance(default, tuple) else (default,)
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in defaults):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_checked(key, size, 1) for size in value)
    least = 0 if key == "depth" else 1
    return whole_number(key, value, f"a whole number, {least} or more", least=least)


def _attributes(family: type[nn.Module]) -> dict[str, Any]:
    """Attributes of a Linen module with their defaults, without Linen's own."""
    return {
        field.name: field.default
        for field in dataclasses.fields(family)
        if field.name not in ("parent", "name")
    }
