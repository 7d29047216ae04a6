"""Logical names of the axes of parameters, and how a mesh of devices divides them.

The names follow from a parameter's path and number of axes, so that parameters stay plain arrays
and no model knows of meshes. The division is that of M. Shoeybi et al., *Megatron-LM: Training
Multi-Billion Parameter Language Models Using Model Parallelism*, 2019, section 3: attention by
heads, MLPs by hidden features; and convolutions by the channels that they return.

>>> import jax, jax.numpy as jnp, ntk_train.models
>>> model = ntk_train.models.create_model("mixer-s/16", depth=1)
>>> image = jnp.zeros((1, 224, 224, 3))
>>> params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
>>> axes = ntk_train.models.logical_axes(params)
>>> axes["block_0"]["channels"]["expand"]["kernel"]
('embed', 'mlp')
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from ntk_train._types import PyTree

Axes = tuple[str | None, ...]

_AXES: tuple[tuple[str, Axes], ...] = (
    (r"(query|key|value)/kernel", ("embed", "heads", "head_features")),
    (r"(query|key|value)/bias", ("heads", "head_features")),
    (r"attention/out/kernel", ("heads", "head_features", "embed")),
    (r"tokens/expand/kernel", ("tokens", "mlp")),
    (r"tokens/contract/kernel", ("mlp", "tokens")),
    (r"tokens/contract/bias", ("tokens",)),
    (r"expand/kernel", ("embed", "mlp")),
    (r"expand/bias", ("mlp",)),
    (r"contract/kernel", ("mlp", "embed")),
    (r"head/kernel", ("embed", "outputs")),
    (r"head/bias", ("outputs",)),
    (r"patches/kernel", ("height", "width", "channels_in", "embed")),
    (r"(conv_\w+|Conv_\d+)/kernel", ("height", "width", "channels_in", "channels")),
    (r"(Conv|BatchNorm|GroupNorm|LayerNorm)_\d+/(scale|bias)", ("channels",)),
    (r"norm_(\d+|stem|shortcut|last)/(scale|bias)", ("channels",)),
    (r"Dense_\d+/kernel", ("features_in", "features")),
    (r"Dense_\d+/bias", ("features",)),
    (r"class_token|positions", (None, "tokens", "embed")),
    (r"(out|contract|patches|norm_(attention|mlp|tokens|channels|head))/(scale|bias)", ("embed",)),
)
"""From what a path ends in to the names of its axes; the first one that fits."""

RULES: Mapping[str, str] = MappingProxyType(
    {"heads": "model", "mlp": "model", "channels": "model", "features": "model"}
)
"""From an axis of parameters to one of the mesh; other axes are not divided."""


def logical_axes(params: PyTree) -> PyTree:
    """Names the axes of each parameter of a model of this package.

    Args:
      params: the parameters, or their shapes.

    Returns:
      A tree like params, of tuples with a name for each axis. Parameters that `scan_layers` stacks
      have a first axis "layers"; an axis that is named None is of size 1.

    Raises:
      ValueError: a parameter is of no model of this package.
    """
    return jax.tree_util.tree_map_with_path(_axes_of, params)


def partition_specs(params: PyTree, mesh: Mesh, rules: Mapping[str, str] = RULES) -> PyTree:
    """Says how parameters lie on the devices of a mesh.

    Args:
      params: the parameters, or their shapes.
      mesh: of devices; an axis that it does not have divides nothing.
      rules: from names of `logical_axes` to axes of the mesh.

    Returns:
      A tree like params, of PartitionSpecs. An axis whose size the devices do not divide is whole
      on each of them.

    Raises:
      ValueError: a parameter is of no model of this package.
    """

    def spec(path: Any, leaf: Any) -> PartitionSpec:
        names = (rules.get(name or "") for name in _axes_of(path, leaf))
        sizes = dict(mesh.shape)
        return PartitionSpec(
            *(
                name if name in sizes and size % sizes[name] == 0 else None
                for name, size in zip(names, leaf.shape, strict=True)
            )
        )

    return jax.tree_util.tree_map_with_path(spec, params)


def _axes_of(path: Any, leaf: Any) -> Axes:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    for pattern, axes in _AXES:
        if re.search(rf"(^|/){pattern}$", name):
            stacked = ("layers",) * name.startswith("blocks/")
            if len(stacked) + len(axes) == len(leaf.shape):
                return (*stacked, *axes)
    msg = (
        f"Parameter {name} of shape {tuple(leaf.shape)} has no named axes; expected the parameters "
        "of a model of ntk_train.models. Write the PartitionSpecs of others by hand."
    )
    raise ValueError(msg)
