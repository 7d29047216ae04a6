"""Which parameters have a kernel of their own: all of them one, each layer, or as a caller says."""

from collections.abc import Callable, Sequence

from ntk_train._arguments import check_type


def groups_of(paths: Sequence[str], per_layer: bool | Callable[[str], str]) -> dict[str, list[int]]:
    """Indices of the leaves of each group, by its name.

    Args:
      paths: of all differentiated leaves.
      per_layer: False for one group "", True for the layers, or from a path to its group's name.

    Raises:
      KernelInputError: the name is no string.
    """
    group_of = _layer_of if per_layer is True else per_layer
    groups: dict[str, list[int]] = {}
    for i, path in enumerate(paths):
        group = group_of(path) if group_of else ""
        check_type("per_layer(path)", group, str, "the name of a group, a string")
        groups.setdefault(group, []).append(i)
    return groups


def _layer_of(path: str) -> str:
    """What a path names before its last part: "Conv_0" of "Conv_0/kernel"."""
    return path.rpartition("/")[0] or path
