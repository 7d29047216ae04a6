"""Checkpoints through Orbax: written now and then, restored bit for bit.

Beside the states lies what is kept of their kernels, as plain arrays: a run that goes on continues
the curves of its kernel's change, and one that its kernel has stopped is known to be.
"""

import logging
import pathlib
import zipfile
from types import TracebackType

import jax
import numpy as np
import orbax.checkpoint as ocp

from ntk_train.train.config import ConfigError
from ntk_train.train.kept import Kept
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

    def save(self, state: TrainState, kept: Kept) -> pathlib.Path:
        """Saves the state under its own step, unless that is saved already; returns where.

        Args:
          state: of a step.
          kept: of the kernels up to that step.
        """
        step = int(state.step)
        if step not in self._manager.all_steps():
            if kept.references and jax.process_index() == 0:
                self._save_kept(kept, step)
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
        return self._directory / str(step)

    def _save_kept(self, kept: Kept, step: int) -> None:
        """Writes it first, in one step: a checkpoint is never without what was kept with it."""
        path = self._companion(step)
        new = path.with_suffix(".new.npz")
        np.savez(new, **kept.to_dict())  # type: ignore[arg-type]
        new.replace(path)
        used = {self._companion(number) for number in self._manager.all_steps()} | {path}
        for old in set(path.parent.glob("ntk_references_*.npz")) - used:
            old.unlink()

    def restore_kept(self, step: int) -> Kept:
        """What was kept with the state of a step; nothing where that cannot be read."""
        path = self._companion(step)
        try:
            with np.load(path) as arrays:
                return Kept.from_dict(arrays)
        except FileNotFoundError:
            return Kept()
        except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            _log.warning("%s cannot be read, the kernel's change starts anew: %s", path, error)
            return Kept()

    def _companion(self, step: int) -> pathlib.Path:
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
