"""Checkpoints through Orbax: written now and then, restored bit for bit.

Beside the states lie the kernels that later ones are compared with, as plain arrays: a run that
goes on continues the curves of its kernel's change.
"""

import logging
import pathlib
import zipfile
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ntk_train.spectrum import ReferenceKernels
from ntk_train.train.config import ConfigError
from ntk_train.train.state import TrainState

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run; a context manager.

    Args:
      directory: absolute; made if it does not exist.
      keep: how many of the latest are kept.
    """

    def __init__(self, directory: pathlib.Path, *, keep: int) -> None:
        self._directory = directory
        # The next step donates the state's buffers, and on the CPU a background write would read
        # them in place: save before going on.
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(directory, options=options)

    def __enter__(self) -> "Checkpoints":
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends Orbax's threads."""
        self._manager.close()

    def save(
        self, state: TrainState, references: Mapping[str, ReferenceKernels] | None = None
    ) -> pathlib.Path:
        """Saves the state under its own step, unless that is saved already; returns where.

        Args:
          state: of a step.
          references: of each probe, by its name, at the same step.
        """
        step = int(state.step)
        if step not in self._manager.all_steps():
            if references and jax.process_index() == 0:
                self._save_references(references, step)
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
        return self._directory / str(step)

    def _save_references(self, references: Mapping[str, ReferenceKernels], step: int) -> None:
        """Writes them first, in one step: a checkpoint is never without those that it had."""
        path = self._references(step)
        new = path.with_suffix(".new.npz")
        arrays: dict[str, Any] = {
            f"{name}/{key}": array
            for name, kept in references.items()
            for key, array in kept.to_dict().items()
        }
        np.savez(new, **arrays)
        new.replace(path)
        kept = {self._references(number) for number in self._manager.all_steps()} | {path}
        for old in set(path.parent.glob("ntk_references_*.npz")) - kept:
            old.unlink()

    def restore_references(self, step: int) -> dict[str, ReferenceKernels]:
        """The kernels kept with the state of a step, by the name of their probe.

        Empty where there are none that can be read.
        """
        path = self._references(step)
        kept: dict[str, dict[str, np.ndarray]] = {}
        try:
            with np.load(path) as arrays:
                for name, array in arrays.items():
                    probe, _, key = name.rpartition("/")
                    kept.setdefault(probe, {})[key] = array
            return {name: ReferenceKernels.from_dict(arrays) for name, arrays in kept.items()}
        except FileNotFoundError:
            return {}
        except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            _log.warning("%s cannot be read, the kernel's change starts anew: %s", path, error)
            return {}

    def _references(self, step: int) -> pathlib.Path:
        return self._directory.parent / f"ntk_references_{step}.npz"

    def restore_latest(self, initial: TrainState) -> TrainState:
        """The latest state, or `initial` if there is none.

        Args:
          initial: a state with the structure, shapes and dtypes to restore.

        Raises:
          ConfigError: what is saved does not fit the model or the optimizer.
        """
        step = self._manager.latest_step()
        if step is None:
            return initial
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, initial)
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except (ValueError, KeyError, TypeError) as error:
            msg = (
                f"The checkpoint {self._directory / str(step)} does not fit the model and "
                "optimizer of this config, or is damaged. Take the config of that run (config.json "
                "beside checkpoints/) or another --workdir; a damaged one you can delete, to go on "
                f"from the one before. Orbax says: {error}"
            )
            raise ConfigError(msg) from error
