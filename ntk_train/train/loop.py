"""The training loop.

    step 0:          evaluate, kernel
    steps 1 to T:    update; now and then log, evaluate, kernel, checkpoint
    at the end:      checkpoint

The numbers of a kernel come from the hook's own thread while training goes on. Its row is printed
when they are there; a checkpoint waits for them, as it holds the kernels that later ones are
compared with.

A run that is started again with the same folder goes on from its last checkpoint, with the same
batches, and ends with the same parameters, bit for bit on a CPU, as if it had not been stopped.
One that its kernel has stopped says so again, unless the bound was raised.

Several processes do the same steps and measure the same kernels; the first one writes and prints,
and decides for all whether to stop.
"""

import contextlib
import logging
import pathlib
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ntk_train.data import check_probes, save_probes
from ntk_train.data.pipeline import eval_batches, train_batches
from ntk_train.errors import NTKError
from ntk_train.monitor import HookSet
from ntk_train.train import config as configs
from ntk_train.train.checkpoint import Checkpoints
from ntk_train.train.kept import Kept, Stop
from ntk_train.train.placement import Placement
from ntk_train.train.progress import Progress
from ntk_train.train.setup import Setup, make_hook, make_setup, probe_checksums
from ntk_train.train.state import TrainState
from ntk_train.train.step import Batch, Metrics, evaluate, make_eval_step, make_train_step
from ntk_train.train.writing import NoWriter, flush, make_report, make_writer, write_charts

_log = logging.getLogger(__name__)


class NonFiniteLossError(NTKError, ArithmeticError):
    """Training diverged: the loss or a parameter became NaN or infinite."""


def train_and_evaluate(config: ConfigDict, workdir: str | pathlib.Path) -> TrainState:
    """Trains a network and logs its test accuracy and its tangent kernel's spectrum.

    Args:
      config: with the fields of `configs/default.py`.
      workdir: for event files, `checkpoints/` and `config.json`; made if it does not exist. A run
        that it holds already is continued.

    Returns:
      The state after the last step, or after the one at which its kernel stopped the run.

    Raises:
      ConfigError: a value of the config is at fault, or does not fit the run in `workdir`.
      KernelInputError: `config.ntk` asks for a kernel that cannot be computed.
      NonFiniteLossError: training diverged; the last finite state is saved.
    """
    configs.check(config)
    placement = Placement()
    placement.check(config)
    setup = make_setup(config)
    workdir = pathlib.Path(workdir).absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:  # closes everything on exceptions too
        keep = config.keep_checkpoints
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", keep=keep))
        initial = placement.everywhere(setup.initial_state(config.seed))
        state = checkpoints.restore_latest(initial)
        lead = placement.process_index == 0
        if lead:
            if int(state.step) > 0:
                _warn_of_changes(config, workdir / "config.json")
            configs.save_config(config, workdir / "config.json")
            _keep_probes(setup, workdir / "probe.json", resumed=int(state.step) > 0)
        kept = checkpoints.restore_kept(int(state.step))
        if kept.stop is not None and kept.stop.holds(config):
            _tell_of_stop(kept.stop, placement)
            return state
        writer = make_writer(workdir) if lead else NoWriter()
        stack.callback(writer.close)
        hook = make_hook(config, setup, writer if lead else None, kept)
        if hook is not None:
            stack.callback(hook.close)
            hook.prepare(**placement.here(_variables(state)))
            write_charts(writer)
        if int(state.step) == 0:  # writers take hparams once, also over interruptions
            writer.write_hparams(_hparams(config, setup, hook))
        return _Run(config, setup, placement, writer, checkpoints, hook, state).run()


def _variables(state: TrainState) -> dict[str, Any]:
    """What the hook takes of a state."""
    return {"params": state.params, "model_state": state.model_state}


def _warn_of_changes(config: ConfigDict, path: pathlib.Path) -> None:
    changes = configs.changes(config, path)
    if changes:
        _log.warning(
            "The run in %s goes on with another config than it had: %s.", path.parent, changes
        )


def _keep_probes(setup: Setup, path: pathlib.Path, *, resumed: bool) -> None:
    """Writes which images the probes are; says if a run goes on with others than it had."""
    if resumed and path.exists() and setup.probes:
        try:
            check_probes(setup.probes, path)
        except ValueError as error:  # a diagnostic ends nobody's training
            _log.warning("%s", error)
    if setup.probes:
        save_probes(setup.probes, path)


def _hparams(config: ConfigDict, setup: Setup, hook: HookSet | None) -> dict[str, Any]:
    hparams = configs.flat_hparams(config)
    if hook is None or hook.first.convention is None:
        return hparams
    return hparams | hook.first.convention.hparams() | probe_checksums(setup, hook)


def _tell_of_stop(stop: Stop, placement: Placement) -> None:
    """Says of a run that is started again that its kernel has stopped it."""
    if placement.process_index == 0:
        print(f"Stopped, {stop.reason}.")
        print("To train on raise config.ntk.stop_above_condition_number, or set it to 0.")


def _continued(start: int, last: int) -> str:
    if start < last:
        return f"Continues the run in this workdir from step {start} of {last}."
    return (
        f"The run in this workdir has reached step {start} already. To train again take another "
        "--workdir, to train on a larger config.num_train_steps."
    )


class Row(NamedTuple):
    """What is printed of a step, beside the spectrum of its kernel."""

    step: int
    loss: float | None
    evaluation: dict[str, float] | None


class _Run:
    """One run, from the step of its state to the last."""

    def __init__(
        self,
        config: ConfigDict,
        setup: Setup,
        placement: Placement,
        writer: Any,
        checkpoints: Checkpoints,
        hook: HookSet | None,
        state: TrainState,
    ) -> None:
        self._config = config
        self._setup = setup
        self._placement = placement
        self._writer = writer
        self._checkpoints = checkpoints
        self._hook = hook
        self._state = state  # the only reference: each step deletes the old one
        self._start, self._last = int(state.step), config.num_train_steps
        self._eval_step = make_eval_step(setup.model)
        self._progress = Progress(
            start_step=self._start,
            num_train_steps=self._last,
            quiet=placement.process_index > 0,
        )
        self._report = make_report(
            num_train_steps=self._last, writer=writer, every_secs=config.report_every_secs
        )
        self._inputs = jax.jit(setup.dataset.inputs)  # on the device, where images are uint8
        self._pending: list[Metrics] = []  # of the steps since the last log, on the device
        self._loss: float | None = None  # of the last log
        self._row: Row | None = None  # measured, and not printed yet
        self._stop: Stop | None = None

    def run(self) -> TrainState:
        """Trains to the last step and returns the state."""
        start = self._start
        if start > 0:
            self._progress.note(_continued(start, self._last))
        self._progress.header()
        # The step at which a run was interrupted has been measured, unless there is no other.
        if start == 0 or start >= self._last:
            self._measure(start, evaluates=True)
        self._report(start)
        if self._stop is not None:
            self._save()
        else:
            self._train(start)
        self._show(wait=True)
        if self._stop is not None:
            self._progress.note(f"Stopped, {self._stop.reason}.")
        return self._state

    def _train(self, start: int) -> None:
        """Trains to the last step, or until the hook asks to stop."""
        config = self._config
        train_step = make_train_step(
            self._setup.model,
            self._setup.optimizer,
            config.seed,
            config.label_smoothing,
            self._placement.replicated,
        )
        batches = train_batches(
            self._setup.dataset.train,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=start,
            process_index=self._placement.process_index,
            process_count=self._placement.process_count,
        )
        for step in range(start + 1, self._last + 1):
            self._state, metrics = train_step(self._state, self._on_device(next(batches)))
            self._pending.append(metrics)
            self._after(step)
            if self._stop is not None:
                break

    def _after(self, step: int) -> None:
        """Does what is due after an update."""
        config = self._config
        self._show(wait=False)
        evaluates = self._due(step, config.eval_every_steps)
        saves = self._due(step, config.checkpoint_every_steps)
        kernel = self._hook is not None and self._due(step, config.ntk.every_steps)
        # What follows uses the state, so it is looked at first; this waits for the device.
        if evaluates or saves or kernel or self._due(step, config.log_every_steps):
            self._log(step)
        self._measure(step, evaluates=evaluates)
        if saves or self._stop is not None:
            self._save()
        self._report(step)
        if step == self._start + 1:
            self._progress.restart_clock(step)  # the first step waited for its compilation

    def _save(self) -> pathlib.Path:
        """Saves the state, after the events before it, which a run that goes on makes no more."""
        kept = Kept.of(self._hook, self._stop)
        flush(self._writer)
        return self._checkpoints.save(self._state, kept)

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self._last

    def _log(self, step: int) -> None:
        """Writes the means over the steps since the last log.

        Raises:
          NonFiniteLossError: one of these steps diverged.
        """
        pending, self._pending = jax.device_get(self._pending), []
        if pending[-1]["diverged"]:
            self._stop_diverged()
        self._loss = float(np.mean([metrics["loss"] for metrics in pending]))
        accuracy = float(np.mean([metrics["accuracy"] for metrics in pending]))
        rate = float(self._setup.schedule(step - 1))  # of the update that led to this step
        scalars = {"train_loss": self._loss, "train_accuracy": accuracy, "learning_rate": rate}
        self._writer.write_scalars(step, scalars)
        self._progress.tick(step)

    def _stop_diverged(self) -> NoReturn:
        """Saves the last finite state, which is the one that the steps have kept, and raises."""
        finite = self._placement.everywhere(jnp.zeros((), bool))
        self._state = self._state.replace(diverged=finite)
        path, step = self._save(), int(self._state.step)
        msg = (
            f"The loss or a parameter became NaN or infinite in step {step + 1}. The "
            f"state before it is saved in {path}. A lower config.optimizer.learning_rate "
            f"(now {self._config.optimizer.learning_rate}) or a warm-up usually helps; to start "
            "again with another config, take another --workdir."
        )
        raise NonFiniteLossError(msg)

    def _measure(self, step: int, *, evaluates: bool) -> None:
        """Evaluates if asked to, lets the hook decide for itself, and has a row of it printed."""
        if evaluates or (self._hook is not None and self._due(step, self._config.ntk.every_steps)):
            self._show(wait=True)  # before the next measurement takes the place of the last
        evaluation = self._evaluate(step) if evaluates else None
        begun = self._run_hook(step)
        if evaluation is not None or begun:
            self._row = Row(step, self._loss, evaluation)
            self._show(wait=not begun)

    def _show(self, *, wait: bool) -> None:
        """Prints the row of the last measurement, if its kernel is there or is waited for."""
        row, hook = self._row, self._hook
        if row is None or not (wait or hook is None or hook.idle):
            return
        self._row = None
        latest = None if hook is None else hook.first.latest
        spectrum = latest.spectrum if latest is not None and latest.step == row.step else None
        self._progress.row(row.step, loss=row.loss, evaluation=row.evaluation, spectrum=spectrum)

    def _evaluate(self, step: int) -> dict[str, float]:
        batches = eval_batches(
            self._setup.dataset.test,
            batch_size=self._config.eval_batch_size,
            process_index=self._placement.process_index,
            process_count=self._placement.process_count,
        )
        with self._report.timed("eval", wait_jax_async_dispatch=False):
            evaluation = evaluate(self._eval_step, self._state, map(self._on_device, batches))
        scalars = {f"eval_{name}": value for name, value in evaluation.items()}
        self._writer.write_scalars(step, scalars)
        return evaluation

    def _on_device(self, batch: Batch) -> Batch:
        batch = self._placement.batch(batch)
        if self._setup.dataset.normalization is None:
            return batch
        return {**batch, "image": self._inputs(batch["image"])}

    def _run_hook(self, step: int) -> bool:
        """Whether a kernel has been begun."""
        if self._hook is None:
            return False
        sgd = self._config.optimizer.name == "sgd"  # the critical rate is that of gradient descent
        with self._report.timed("ntk", wait_jax_async_dispatch=False):
            begun = self._hook(
                step,
                **self._placement.here(_variables(self._state)),
                learning_rate=self._setup.schedule if sgd else None,
            )
            if self._due(step, self._config.ntk.every_steps):
                self._decide(self._hook)
        return begun

    def _decide(self, hook: HookSet) -> None:
        """Whether to stop; at the same step whenever the run is repeated, and in all processes."""
        bound = self._config.ntk.stop_above_condition_number
        if bound:
            hook.wait()
            if self._placement.agreed(hook.should_stop):
                self._stop = Stop(hook.stop_reason, bound)
