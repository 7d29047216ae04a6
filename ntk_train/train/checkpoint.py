"""Checkpoints through Orbax: written now and then, restored bit for bit."""

import pathlib
from types import TracebackType

import jax
import orbax.checkpoint as ocp

from ntk_train.train.config import ConfigError
from ntk_train.train.state import TrainState


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

    def save(self, state: TrainState) -> pathlib.Path:
        """Saves the state under its own step, unless that is saved already; returns where."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
        return self._directory / str(step)

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
