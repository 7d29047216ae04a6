"""Keeps what XLA has compiled on disk, so that a program is compiled once and not in each run.

A kernel of a ResNet takes half a minute or more to compile for a GPU, most of it to try which code
is fastest, and seconds to load. JAX has such a cache, but only where it is told a folder.
"""

import logging
import os
import pathlib
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

_log = logging.getLogger(__name__)


def keep_compiled_programs() -> None:
    """Has JAX keep compiled programs in a folder of the user, and says so.

    Nothing changes where a folder is set already (`jax_compilation_cache_dir`), where the cache is
    switched off (`jax_enable_compilation_cache`, or JAX_ENABLE_COMPILATION_CACHE=0), and on a CPU,
    for which compiling is quick and another machine's code may not run.
    """
    config: Any = jax.config
    is_set = config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache
    if is_set or jax.default_backend() == "cpu":
        return
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = folder / "ntk_train" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("Compiled programs are not kept: %s", error)
        return
    config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()  # JAX looks once, when it first compiles
    _log.info("Compiled programs are kept in %s (JAX_ENABLE_COMPILATION_CACHE=0: not)", folder)
