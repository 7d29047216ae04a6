"""Configs of `ntk-train`: `default.py` has all fields, the others change a few of them.

--config=imagenet:resnet-50      one of these by its name, and the text that it is called with
--config=mine.py:resnet-50       a file of your own, with a function `get_config(arg)`
"""

import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
from types import ModuleType

from ml_collections import ConfigDict

from ntk_train._registry import unknown
from ntk_train.errors import NTKError

NAMES = tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "recipes"))
"""The configs that are found by name, wherever the package is installed."""


class NoConfigError(NTKError, ValueError):
    """There is no such config, or it does not take the text after its colon."""


def load_config(text: str) -> ConfigDict:
    """The config that the flag `--config` names.

    Args:
      text: a name of `NAMES` or the path of a file, and behind a colon what it is called with.

    Raises:
      NoConfigError: there is no such config, or it takes no such text; says which there are.
    """
    name, colon, argument = text.partition(":")
    get_config = getattr(_module(name), "get_config", None)
    if get_config is None:
        msg = f"--config={text}: {name} has no function get_config(arg) that returns a ConfigDict."
        raise NoConfigError(msg)
    if colon and not inspect.signature(get_config).parameters:
        msg = f"--config={text}: {name} takes nothing after its name; expected --config={name}."
        raise NoConfigError(msg)
    try:
        return get_config(argument) if colon else get_config()
    except ValueError as error:
        msg = f"--config={text}: {error}"
        raise NoConfigError(msg) from error


def _module(name: str) -> ModuleType:
    path = pathlib.Path(name)
    if path.is_file():
        spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
        if spec is None or spec.loader is None:
            msg = (
                f"--config={name} is a file, but not one of Python; expected one that ends in .py."
            )
            raise NoConfigError(msg)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    # As in a checkout of the time when configs/ lay beside the package.
    own = path.stem if path.as_posix() == f"configs/{path.stem}.py" else name
    if own not in NAMES:
        msg = f"--config={name}: {unknown('config', own, NAMES)} Or the path of a file of yours."
        raise NoConfigError(msg)
    return importlib.import_module(f"ntk_train.configs.{own}")
