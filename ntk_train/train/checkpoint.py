"""Checkpoints through Orbax: written now and then, restored bit for bit.

    checkpoints/500/          the state of step 500
    checkpoint_500.sha256     the checksums of its files
    ntk_references_500.npz    what is kept of the kernels up to it, as plain arrays
    damaged_checkpoints/      those that were found damaged
    diverged/                 the last finite state of a run that diverged, which none goes on from

With what is kept of the kernels a run that goes on continues the curves of its kernel's change, and
one that its kernel has stopped is known to be.
"""

import logging
import os
import pathlib
import shutil
from types import TracebackType

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ntk_train.train.config import ConfigError
from ntk_train.train.endings import NotSavedError, in_short
from ntk_train.train.kept import Kept
from ntk_train.train.seal import broken_files, write_seal
from ntk_train.train.state import TrainState

_log = logging.getLogger(__name__)

_OVERHEAD = 1 << 18  # bytes of a checkpoint's small files, and of what is kept beside it


class Checkpoints:
    """The checkpoints of one run; a context manager.

    Those that are damaged, from the latest on to the first that is whole, are set aside.

    Args:
      directory: absolute; made if it does not exist.
      keep: how many of the latest are kept.
    """

    def __init__(self, directory: pathlib.Path, *, keep: int) -> None:
        self._directory = directory
        self._damaged = directory.parent / "damaged_checkpoints"
        if jax.process_index() == 0:
            self._set_damaged_aside()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("checkpoints are whole")
        self._manager = _manager(directory, keep)

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

    @property
    def latest_step(self) -> int | None:
        """The step of the latest, None if there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, kept: Kept) -> pathlib.Path:
        """Saves the state under its own step, unless that is saved already; returns where.

        Args:
          state: of a step.
          kept: of the kernels up to that step.

        Raises:
          NotSavedError: a file could not be written; what was saved before is still there.
        """
        step = int(state.step)
        path = self._directory / str(step)
        if step in self._manager.all_steps():
            return path
        lead, before = jax.process_index() == 0, self.latest_step
        try:
            if lead:
                self._ask_for_room(state)
            if kept.references and lead:
                self._save_kept(kept, step)
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
        except Exception as error:  # of any of three libraries, where the disk is full
            self._withdraw(step)
            msg = (
                f"The checkpoint of step {step} could not be saved in {self._directory} "
                f"({in_short(error)}). {self._going_on(before)}"
            )
            raise NotSavedError(msg) from error
        if lead:
            self._finish(step)
        return path

    def _finish(self, step: int) -> None:
        """Seals a checkpoint, and deletes what belongs to those that are no more."""
        try:
            write_seal(self._seal(step), self._directory / str(step))
            self._tidy()
        except OSError as error:  # it is whole without, and may be the only one
            _log.warning("The checkpoint of step %s has no checksums: %s", step, in_short(error))

    def _ask_for_room(self, state: TrainState) -> None:
        """Raises where the disk is full, which Orbax takes a minute and a hundred lines to say."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        path = self._directory.parent / "room.new"
        try:
            with path.open("wb") as file:
                if hasattr(os, "posix_fallocate"):  # not on macOS
                    os.posix_fallocate(file.fileno(), 0, size + size // 10 + _OVERHEAD)
        finally:
            path.unlink(missing_ok=True)

    def _going_on(self, step: int | None) -> str:
        if step is None:
            return "There is none before it: with more room the same command starts from step 0."
        return f"Kept is that of step {step}: with more room the same command goes on from there."

    def save_diverged(self, state: TrainState) -> pathlib.Path:
        """Saves the last finite state, to be looked at; returns where."""
        step, folder = int(state.step), self._directory.parent / "diverged"
        manager = _manager(folder, keep=1)
        try:
            if step not in manager.all_steps():
                manager.save(step, args=ocp.args.StandardSave(state), force=True)
        finally:
            manager.close()
        return folder / str(step)

    def _save_kept(self, kept: Kept, step: int) -> None:
        """Writes it first, in one step: a checkpoint is never without what was kept with it."""
        path = self._companion(step)
        new = path.with_suffix(".new.npz")
        np.savez(new, **kept.to_dict())  # type: ignore[arg-type]
        new.replace(path)

    def _tidy(self) -> None:
        steps, root = self._manager.all_steps(), self._directory.parent
        used = {path(step) for step in steps for path in (self._companion, self._seal)}
        for old in {*root.glob("ntk_references_*.npz"), *root.glob("checkpoint_*.sha256")} - used:
            old.unlink()

    def _withdraw(self, step: int) -> None:
        """Deletes the parts of a checkpoint that could not be saved, which take up room."""
        companion = self._companion(step)
        for path in (companion, companion.with_suffix(".new.npz"), self._seal(step)):
            path.unlink(missing_ok=True)
        for folder in self._directory.glob(f"{step}*"):
            if folder.name == str(step) or "tmp" in folder.name:
                shutil.rmtree(folder, ignore_errors=True)

    def restore_kept(self, step: int) -> Kept:
        """What was kept with the state of a step; nothing where that cannot be read, which is said.

        Args:
          step: of the state; with that of 0 nothing need be kept.
        """
        path = self._companion(step)
        try:
            # NumPy leaves a file open that it opened and could not read.
            with path.open("rb") as file, np.load(file) as arrays:
                return Kept.from_dict(arrays)
        except FileNotFoundError:
            if step > 0:
                _log.warning("%s is not there: the kernel's change starts anew.", path)
        except Exception as error:  # of zip, of NumPy's format or of its content
            _log.warning(
                "%s cannot be read, the kernel's change starts anew: %s", path, in_short(error)
            )
        return Kept()

    def _companion(self, step: int) -> pathlib.Path:
        return self._directory.parent / f"ntk_references_{step}.npz"

    def _seal(self, step: int) -> pathlib.Path:
        return self._directory.parent / f"checkpoint_{step}.sha256"

    def _set_damaged_aside(self) -> None:
        """Moves the latest checkpoints away that are not as they were written."""
        folders = [path for path in self._directory.glob("*") if path.name.isdigit()]
        for folder in sorted(folders, key=lambda path: int(path.name), reverse=True):
            seal = self._seal(int(folder.name))
            broken = broken_files(seal)
            if not broken:
                return
            self._damaged.mkdir(exist_ok=True)
            times = len(list(self._damaged.glob(f"{folder.name}*")))
            place = self._damaged / (f"{folder.name}_{times + 1}" if times else folder.name)
            folder.rename(place)
            seal.unlink()
            _log.warning(
                "The checkpoint of step %s is damaged and lies in %s now: %s.",
                folder.name,
                place,
                "; ".join(broken[:3]) + (f" and {len(broken) - 3} more" if broken[3:] else ""),
            )

    def restore_latest(self, initial: TrainState) -> TrainState:
        """The latest state, or `initial` if there is none.

        Args:
          initial: a state with the structure, shapes and dtypes to restore.

        Raises:
          ConfigError: what is saved does not fit the model or the optimizer, or all of it is
            damaged.
        """
        step = self.latest_step
        if step is None:
            if self._damaged.exists():
                msg = (
                    f"All checkpoints of this run are damaged, and lie in {self._damaged}. Take "
                    "another --workdir, or delete that folder to start from step 0 in this one."
                )
                raise ConfigError(msg)
            return initial
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, initial)
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except Exception as error:  # of Orbax or TensorStore, of any kind
            doubt = "" if self._seal(step).exists() else ", or is damaged"
            msg = (
                f"The checkpoint {self._directory / str(step)} does not fit the model and "
                f"optimizer of this config{doubt}. Take the config of that run (config.json "
                "beside checkpoints/) or another --workdir; a damaged one you can delete, to go on "
                f"from the one before. Orbax says: {in_short(error)}"
            )
            raise ConfigError(msg) from error


def _manager(directory: pathlib.Path, keep: int) -> ocp.CheckpointManager:
    # The next step donates the state's buffers, and on the CPU a background write would read
    # them in place: save before going on.
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    return ocp.CheckpointManager(directory, options=options)
