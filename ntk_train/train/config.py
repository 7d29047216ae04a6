"""A run's config: checks, the copy beside its results, and its values as TensorBoard takes them."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from ml_collections import ConfigDict

from ntk_train.errors import NTKError

HParam: TypeAlias = str | int | float | bool


class ConfigError(NTKError, ValueError):
    """A field of the config has a value with which no run is possible."""


@contextlib.contextmanager
def blame(section: str) -> Iterator[None]:
    """Names the section of the config in an error that one of its values caused."""
    try:
        yield
    except (ValueError, TypeError) as error:
        msg = f"config.{section}: {error}"
        raise ConfigError(msg) from error


def check(config: ConfigDict) -> None:
    """Checks the numbers that the loop itself uses.

    Raises:
      ConfigError: one is out of range.
    """
    for name, least in (
        ("num_train_steps", 1),
        ("batch_size", 1),
        ("eval_batch_size", 1),
        ("log_every_steps", 1),
        ("eval_every_steps", 1),
        ("checkpoint_every_steps", 1),
        ("keep_checkpoints", 1),
        ("seed", 0),
    ):
        if config[name] < least:
            msg = f"config.{name}={config[name]}; expected {least} or more."
            raise ConfigError(msg)
    if not 0 <= config.label_smoothing < 1:
        msg = f"config.label_smoothing={config.label_smoothing}; expected 0 to below 1, 0.1 say."
        raise ConfigError(msg)


def save_config(config: ConfigDict, path: pathlib.Path) -> None:
    """Writes the config as JSON, in one step; values that JSON lacks are written as text."""
    new = path.with_suffix(".new")
    new.write_text(config.to_json_best_effort(indent=2, sort_keys=True) + "\n")
    new.replace(path)


def changes(config: ConfigDict, path: pathlib.Path) -> list[str]:
    """What differs between the config and the one saved there: a text for each field.

    A file that cannot be read differs; where there is none, nothing does.
    """
    if not path.exists():
        return []
    # Through JSON both, so that tuples and lists compare equal.
    try:
        old = flat_hparams(json.loads(path.read_text()), separator=".")
    except (ValueError, AttributeError) as error:
        return [f"{path.name} cannot be read: {error}"]
    new = flat_hparams(json.loads(config.to_json_best_effort()), separator=".")
    return [
        f"config.{name} was {_said(old, name)} and is {_said(new, name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    ]


_ABSENT = object()


def _said(config: Mapping[str, HParam], name: str) -> str:
    return str(config[name]) if name in config else "not there"


def flat_hparams(
    config: Mapping[str, Any], prefix: str = "", separator: str = "/"
) -> dict[str, HParam]:
    """The config as a flat dict of values that TensorBoard's hparams can hold.

    Keys are joined with the separator. None, sequences, dtypes and functions become text: writers
    fail on them, and an asynchronous writer fails later, elsewhere.
    """
    flat: dict[str, HParam] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping | ConfigDict):
            flat |= flat_hparams(value, f"{name}{separator}", separator)
        else:
            flat[name] = _plain(value)
    return flat


def _plain(value: Any) -> HParam:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    return getattr(value, "__qualname__", None) or str(value)
