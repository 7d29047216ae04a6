"""How a number is named in TensorBoard, which makes a group of what stands before the first slash.

    lambda_max of the kernel                ->  ntk/lambda_max
    trace_share of the layer Block/Dense_0  ->  ntk_layers/Block/Dense_0/trace_share
    lambda_max of a probe "test"            ->  ntk_test/lambda_max

This is the only file that knows it. Until a tag is written, and as soon as one is read, prefix,
layer and name are apart.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from ntk_train.spectrum import Diagnostics

_Value = TypeVar("_Value")

LAYERS = "layers"  # the end of the group of the layers' numbers, so that no probe may have it


def tag_of(prefix: str, name: str, layer: str | None = None) -> str:
    """The tag of a number of a kernel, or of one of its layers."""
    return f"{prefix}/{name}" if layer is None else f"{prefix}_{LAYERS}/{layer}/{name}"


def prefix_of(prefix: str, probe: str) -> str:
    """The prefix of a further probe, beside that of the first."""
    return f"{prefix}_{probe}"


def tagged(prefix: str, found: Diagnostics) -> dict[str, float]:
    """All numbers of a kernel by their tags."""
    whole = {tag_of(prefix, name): value for name, value in found.of_kernel().items()}
    return whole | {
        tag_of(prefix, name, layer): value
        for layer, numbers in found.layers.items()
        for name, value in numbers.scalars().items()
    }


def by_name(prefix: str, tags: Mapping[str, _Value]) -> dict[str, _Value]:
    """What tags of a kernel stand for, by the names of its numbers, without those of layers."""
    start = tag_of(prefix, "")
    own = {tag.removeprefix(start): value for tag, value in tags.items() if tag.startswith(start)}
    return {name: value for name, value in own.items() if "/" not in name}


def by_layer(prefix: str, tags: Mapping[str, _Value]) -> dict[str, dict[str, _Value]]:
    """What tags of a kernel stand for, by layer and the names of its numbers, in their order."""
    start = f"{prefix}_{LAYERS}/"
    found: dict[str, dict[str, _Value]] = {}
    for tag, value in tags.items():
        layer, _, name = tag.removeprefix(start).rpartition("/")
        if tag.startswith(start) and layer:
            found.setdefault(layer, {})[name] = value
    return found


def prefixes(tags: Iterable[str]) -> tuple[str, ...]:
    """The prefixes of all kernels of which there are tags.

    A layer has a largest eigenvalue too, and no condition number.
    """
    known = set(tags)
    ends = {tag.rpartition("/")[0] for tag in known if tag.endswith("/lambda_max")}
    return tuple(sorted(start for start in ends if tag_of(start, "condition_number") in known))


def pattern(prefix: str, names: Iterable[str], *, layers: bool = False) -> str:
    """A regular expression of the tags of these numbers, of all probes, and of all layers."""
    start = f"^{re.escape(prefix)}(_[^/]+)?"
    either = "|".join(names)
    return f"{start}_{LAYERS}/.+/({either})$" if layers else f"{start}/({either})$"
