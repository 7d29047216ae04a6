"""`--config.<field>=<value>` where ml_collections alone cannot set it.

    --config.dataset.name=lfw_faces          with the arguments of that data set
    --config.model.name=fcn                  with the attributes of that model
    --config.dataset.kwargs.classes=None     no value, and values of fields that have none

It takes the type of a value from the one before, and so makes a tuple with None in it of a tuple
that is set to None, and has no type for a field that is None.
"""

import ast
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ntk_train._registry import lookup
from ntk_train.data import DATASETS
from ntk_train.models import model_defaults
from ntk_train.train.config import ConfigError, blame

_FLAG = "--config."


def apply_overrides(config: ConfigDict, arguments: Sequence[str]) -> list[str]:
    """Sets these fields, and returns the arguments that are left for ml_collections.

    Args:
      config: changed in place.
      arguments: of the program, after its name.

    Raises:
      ConfigError: there is no such data set or model, or a field cannot be None.
    """
    arguments = _joined(config, arguments)
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name == f"{_FLAG}dataset.name":
            _change(config, "dataset", value, _arguments)
        if name == f"{_FLAG}model.name":
            _change(config, "model", value, model_defaults)
    return [argument for argument in arguments if not _set_without_type(config, argument)]


def _joined(config: ConfigDict, arguments: Sequence[str]) -> list[str]:
    """With `--config.field value` as `--config.field=value`."""
    joined: list[str] = []
    for argument in arguments:
        if argument.startswith("-config."):
            argument = f"-{argument}"
        last = joined[-1] if joined else ""
        waits = last.startswith(_FLAG) and "=" not in last
        if waits and not argument.startswith("--") and not isinstance(_get(config, last), bool):
            joined[-1] = f"{last}={argument}"
        else:
            joined.append(argument)
    return joined


def _change(config: ConfigDict, section: str, name: str, defaults: Any) -> None:
    """Takes another data set or model, with its own arguments in place of the other's."""
    if name != config[section].name:
        with blame(section), config.unlocked():
            config[section].kwargs = ConfigDict(defaults(name))
            config[section].name = name


def _arguments(name: str) -> Mapping[str, Any]:
    parameters = inspect.signature(lookup(DATASETS, name, "dataset")).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _set_without_type(config: ConfigDict, argument: str) -> bool:
    """Sets a field to None, or one that is None; whether that was asked for."""
    name, equals, text = argument.partition("=")
    if not (name.startswith(_FLAG) and equals):
        return False
    before = _get(config, name)
    if before is not None and (text != "None" or before is _MISSING):
        return False
    if text == "None" and not isinstance(before, tuple | str | None):
        msg = f"{name[2:]}=None; expected a {type(before).__name__} such as {before}."
        raise ConfigError(msg)
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = text  # as it stands: a name
    *parents, last = name.removeprefix(_FLAG).split(".")
    section = config
    for parent in parents:
        section = section[parent]
    section[last] = value
    return True


_MISSING = object()


def _get(config: ConfigDict, flag: str) -> Any:
    """The value of the field that a flag names; `_MISSING` where there is none."""
    value: Any = config
    for part in flag.removeprefix(_FLAG).partition("=")[0].split("."):
        if not isinstance(value, ConfigDict) or part not in value:
            return _MISSING
        value = value[part]
    return value
