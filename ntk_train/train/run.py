"""A run: begun in a new folder, or continued in its own.

    config     ->  setup        refused here, before anything is written
    workdir    ->  lock         one process, and the config of the steps made so far
    checkpoint ->  state        the latest that is whole
               ->  loop         trains, measures, saves

A run that is started again with the same folder goes on from its last checkpoint, with the same
batches, and ends with the same parameters, bit for bit on a CPU, as if it had not been stopped.
One that has reached its last step, or that its kernel has stopped, says so again.
"""

import contextlib
import functools
import logging
import pathlib
from typing import Any

from ml_collections import ConfigDict

from ntk_train.data import check_probes, save_probes
from ntk_train.monitor import HookSet
from ntk_train.train import config as configs
from ntk_train.train.checkpoint import Checkpoints
from ntk_train.train.endings import NotSavedError
from ntk_train.train.interruption import Interruption
from ntk_train.train.kept import Kept
from ntk_train.train.loop import Run
from ntk_train.train.placement import Placement
from ntk_train.train.setup import Setup, make_hook, make_setup, probe_checksums
from ntk_train.train.state import TrainState
from ntk_train.train.workdir import Workdir
from ntk_train.train.writing import SurvivingWriter, close, make_writer, write_charts

_log = logging.getLogger(__name__)


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | pathlib.Path,
    *,
    resume: str = "same",
    interruption: Interruption | None = None,
) -> TrainState:
    """Trains a network and logs its test accuracy and its tangent kernel's spectrum.

    Args:
      config: with the fields of `ntk_train/configs/default.py`.
      workdir: for event files, `checkpoints/` and `config.json`; made if it does not exist. A run
        that it holds already is continued.
      resume: "same" continues a run by its own config only, "force" by another one too.
      interruption: asked after each step whether to end; None to leave signals alone.

    Returns:
      The state after the last step, or after the one at which its kernel stopped the run.

    Raises:
      ConfigError: a value of the config is at fault, or does not fit the run in `workdir`.
      KernelInputError: `config.ntk` asks for a kernel that cannot be computed.
      NonFiniteLossError: training diverged; the checkpoint before is the one to go on from.
      NotSavedError: a checkpoint could not be written; those before it are kept.
      InterruptedRunError: a signal has come; the state is saved.
    """
    if resume not in ("same", "force"):
        msg = f"resume={resume!r}; expected 'same' or 'force'."
        raise configs.ConfigError(msg)
    folder = Workdir(workdir)
    configs.check(config)
    placement = Placement()
    placement.check(config)
    setup = make_setup(config)
    with contextlib.ExitStack() as stack:  # closes everything on exceptions too
        if placement.process_index == 0:
            stack.enter_context(folder.locked())
        folder.check_config(config, force=resume == "force")
        keep = config.keep_checkpoints
        checkpoints = stack.enter_context(Checkpoints(folder.path / "checkpoints", keep=keep))
        state = checkpoints.restore_latest(placement.everywhere(setup.initial_state(config.seed)))
        start = int(state.step)
        kept = checkpoints.restore_kept(start) if config.ntk.enabled else Kept()
        ended = _ended(config, start, kept)
        if placement.process_index == 0:
            print(ended or _begins(folder, checkpoints, start, config.num_train_steps), end="")
        if ended:
            return state
        run = Run(config, setup, placement, checkpoints, state, interruption)
        if placement.process_index == 0:
            _check_probes(setup, folder, start)
            run.on_first_step = functools.partial(_keep, config, setup, folder, start)
            folder.note_event_files()
            writer = make_writer(folder.path)
            stack.callback(close, writer)
            run.writer = SurvivingWriter(writer)
        else:
            writer = None
        run.hook = make_hook(config, setup, writer, kept)
        if run.hook is not None:
            stack.callback(run.hook.close)
            run.hook.prepare(**run.variables)
            write_charts(run.writer)
        if start == 0:  # writers take hparams once, also over interruptions
            run.writer.write_hparams(_hparams(config, setup, run.hook))
        return run.train()


def _ended(config: ConfigDict, step: int, kept: Kept) -> str:
    """What there is to say of a run that makes no step any more; "" of one that does."""
    if kept.stop is not None and kept.stop.holds(config):
        return (
            f"Stopped, {kept.stop.reason}.\nTo train on raise "
            "config.ntk.stop_above_condition_number, or set it to 0, with --resume=force.\n"
        )
    if step < config.num_train_steps:
        return ""
    return (
        f"The run in this workdir has reached step {step} already. To train again take another "
        "--workdir, to train on a larger config.num_train_steps with --resume=force.\n"
    )


def _begins(folder: Workdir, checkpoints: Checkpoints, step: int, last: int) -> str:
    """What there is to say of a run before it trains; "" of a new one."""
    if checkpoints.latest_step is not None:
        return f"Continues the run in this workdir from step {step} of {last}.\n"
    if not folder.config.exists():
        return ""
    return (
        f"Steps were made in {folder.path}, but there is no checkpoint of them: the run starts "
        "again from step 0.\n"
    )


def _hparams(config: ConfigDict, setup: Setup, hook: HookSet | None) -> dict[str, Any]:
    hparams = configs.flat_hparams(config)
    if hook is None or hook.first.convention is None:
        return hparams
    return hparams | hook.first.convention.hparams() | probe_checksums(setup, hook)


def _check_probes(setup: Setup, folder: Workdir, start: int) -> None:
    """Says if a run goes on with other probes than it had."""
    if start > 0 and folder.probes.exists() and setup.probes:
        try:
            check_probes(setup.probes, folder.probes)
        except ValueError as error:  # a diagnostic ends nobody's training
            _log.warning("%s", error)


def _keep(config: ConfigDict, setup: Setup, folder: Workdir, start: int) -> None:
    """Writes what the steps from `start` on are made with."""
    try:
        folder.keep_config(config, start)
        if setup.probes:
            save_probes(setup.probes, folder.probes)
    except OSError as error:
        msg = f"The run's config could not be written: {error}. No checkpoint is lost by that."
        raise NotSavedError(msg) from error
