"""The training loop.

    step 0:          evaluate, kernel
    steps 1 to T:    update; now and then log, evaluate, kernel, checkpoint
    at the end:      checkpoint

The numbers of a kernel come from the hook's own thread while training goes on. Its row is printed
when they are there; a checkpoint waits for them, as it holds the kernels that later ones are
compared with.

Several processes do the same steps and measure the same kernels; the first one writes and prints,
and decides for all whether to stop.
"""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ntk_train.data.pipeline import eval_batches, train_batches
from ntk_train.monitor import HookSet
from ntk_train.train.checkpoint import Checkpoints
from ntk_train.train.endings import InterruptedRunError, NonFiniteLossError, diverged, in_short
from ntk_train.train.interruption import Interruption
from ntk_train.train.kept import Kept, Stop
from ntk_train.train.placement import Placement
from ntk_train.train.progress import Progress
from ntk_train.train.setup import Setup
from ntk_train.train.slowdown import Slowdown
from ntk_train.train.state import TrainState
from ntk_train.train.step import Batch, Metrics, evaluate, make_eval_step, make_train_step
from ntk_train.train.writing import NoWriter, make_report


class Row(NamedTuple):
    """What is printed of a step, beside the spectrum of its kernel."""

    step: int
    loss: float | None
    evaluation: dict[str, float] | None


class Run:
    """One run, from the step of its state to the last.

    Attributes:
      writer: of event files; drops all until it is given.
      hook: of the kernels, None for none.
      on_first_step: called when the first step has been made.

    Args:
      config: the whole config.
      setup: its objects.
      placement: of state and batches.
      checkpoints: of the run.
      state: from which it goes on; deleted by the first step.
      interruption: asked after each step whether to end; None for no such thing.
    """

    def __init__(
        self,
        config: ConfigDict,
        setup: Setup,
        placement: Placement,
        checkpoints: Checkpoints,
        state: TrainState,
        interruption: Interruption | None = None,
    ) -> None:
        self.writer: Any = NoWriter()
        self.hook: HookSet | None = None
        self.on_first_step: Callable[[], None] = lambda: None
        self._config = config
        self._setup = setup
        self._placement = placement
        self._checkpoints = checkpoints
        self._interruption = interruption or Interruption()
        self._state = state  # the only reference: each step deletes the old one
        self._start, self._last = int(state.step), config.num_train_steps
        self._eval_step = make_eval_step(setup.model)
        self._progress = Progress(
            start_step=self._start,
            num_train_steps=self._last,
            quiet=placement.process_index > 0,
        )
        self._inputs = jax.jit(setup.dataset.inputs)  # on the device, where images are uint8
        self._pending: list[Metrics] = []  # of the steps since the last log, on the device
        self._loss: float | None = None  # of the last log
        self._row: Row | None = None  # measured, and not printed yet
        self._stop: Stop | None = None
        self._slowdown = Slowdown()

    @property
    def variables(self) -> dict[str, Any]:
        """What the hook takes of the state."""
        state = self._state
        return self._placement.here({"params": state.params, "model_state": state.model_state})

    def train(self) -> TrainState:
        """Trains to the last step and returns the state."""
        self._report = make_report(
            num_train_steps=self._last,
            writer=self.writer,
            every_secs=self._config.report_every_secs,
        )
        self._end_if_interrupted(self._start)
        self._progress.header()
        # The step at which a run was interrupted has been measured.
        if self._start == 0:
            self._measure(0, evaluates=True)
        self._report(self._start)
        if self._stop is not None:
            self.on_first_step()
            self._save()
        else:
            self._train()
        self._show(wait=True)
        if self._stop is not None:
            self._progress.note(f"Stopped, {self._stop.reason}.")
        slowdown = self._slowdown.value
        if slowdown is not None:
            self._progress.note(f"The kernels made training {max(slowdown, 0):.1%} slower.")
        return self._state

    def _train(self) -> None:
        """Trains to the last step, or until the hook or a signal asks to stop."""
        config, start = self._config, self._start
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
            self._end_if_interrupted(step - 1)
            self._state, metrics = train_step(self._state, self._on_device(next(batches)))
            self._pending.append(metrics)
            if step == start + 1:
                jax.block_until_ready(metrics)  # one that does not fit into memory was not made
                self.on_first_step()
            self._after(step)
            if self._stop is not None:
                break

    def _end_if_interrupted(self, step: int) -> None:
        """Saves and ends the run if a signal has come; the same in all processes.

        Raises:
          InterruptedRunError: one has.
        """
        asked = self._interruption.signal
        if self._placement.process_count > 1 and not self._due(step, self._config.log_every_steps):
            return  # they agree where they wait for each other anyway
        if not self._placement.anywhere(asked is not None):
            return
        if self._pending:
            self._log(step)
        self._show(wait=True)
        where = f"kept in {self._save()}" if step > 0 else "nothing of it, as no step was made"
        by = asked.name if asked is not None else "a signal to another process"
        msg = (
            f"The run was ended by {by} at step {step} of {self._last}, {where}. The same command "
            "goes on from there."
        )
        raise InterruptedRunError(msg)

    def _after(self, step: int) -> None:
        """Does what is due after an update."""
        config = self._config
        self._show(wait=False)
        evaluates = self._due(step, config.eval_every_steps)
        saves = self._due(step, config.checkpoint_every_steps)
        kernel = self.hook is not None and self._due(step, config.ntk.every_steps)
        # What follows uses the state, so it is looked at first; this waits for the device.
        if evaluates or saves or kernel or self._due(step, config.log_every_steps):
            self._log(step)
        self._measure(step, evaluates=evaluates)
        self._slowdown.busy = self.hook is not None and not self.hook.wait(0)
        if saves or self._stop is not None:
            self._save()
        self._report(step)
        if step == self._start + 1:
            self._progress.restart_clock(step)  # the first step waited for its compilation

    def _save(self) -> pathlib.Path:
        """Saves the state, after the events before it, which a run that goes on makes no more."""
        kept = Kept.of(self.hook, self._stop)
        with self._slowdown.paused():
            self.writer.flush()
            return self._checkpoints.save(self._state, kept)

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self._last

    def _log(self, step: int) -> None:
        """Writes the means over the steps since the last log.

        Raises:
          NonFiniteLossError: one of these steps diverged.
        """
        pending, self._pending = jax.device_get(self._pending), []
        self._slowdown.log(step)
        finite = [metrics for metrics in pending if not metrics["diverged"]]
        made = step - len(pending) + len(finite)
        if finite:
            self._loss = float(np.mean([metrics["loss"] for metrics in finite]))
            accuracy = float(np.mean([metrics["accuracy"] for metrics in finite]))
            scalars = {"train_loss": self._loss, "train_accuracy": accuracy}
            slowdown = self._slowdown.value
            if slowdown is not None:
                scalars["kernel_slowdown"] = slowdown
            self.writer.write_scalars(made, scalars | {"learning_rate": self._rate(made)})
            self._progress.tick(made)
        if made < step:
            self._end_diverged(made + 1)

    def _rate(self, step: int) -> float:
        """The learning rate of the update that leads to this step."""
        return float(self._setup.schedule(step - 1))

    def _end_diverged(self, step: int) -> NoReturn:
        """Saves the last finite state to be looked at, which the steps have kept, and raises."""
        self._show(wait=True)
        finite = self._state.replace(diverged=self._placement.everywhere(jnp.zeros((), bool)))
        try:
            saved = f"is saved in {self._checkpoints.save_diverged(finite)}"
        except Exception as error:  # a full disk, say; the checkpoints are there
            saved = f"could not be saved ({in_short(error)})"
        latest = None if self.hook is None else self.hook.first.latest
        raise NonFiniteLossError(
            diverged(
                step,
                rate=self._rate(step),
                loss=self._loss,
                scalars={} if latest is None else latest.diagnostics.scalars(),
                measured_at=None if latest is None else latest.step,
                saved=saved,
                checkpoint=self._checkpoints.latest_step,
            )
        )

    def _measure(self, step: int, *, evaluates: bool) -> None:
        """Evaluates if asked to, lets the hook decide for itself, and has a row of it printed."""
        if evaluates or (self.hook is not None and self._due(step, self._config.ntk.every_steps)):
            self._show(wait=True)  # before the next measurement takes the place of the last
        with self._slowdown.paused():
            evaluation = self._evaluate(step) if evaluates else None
        begun = self._run_hook(step)
        if evaluation is not None or begun:
            self._row = Row(step, self._loss, evaluation)
            self._show(wait=not begun)

    def _show(self, *, wait: bool) -> None:
        """Prints the row of the last measurement, if its kernel is there or is waited for."""
        row, hook = self._row, self.hook
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
        self.writer.write_scalars(step, scalars)
        return evaluation

    def _on_device(self, batch: Batch) -> Batch:
        batch = self._placement.batch(batch)
        if self._setup.dataset.normalization is None:
            return batch
        return {**batch, "image": self._inputs(batch["image"])}

    def _run_hook(self, step: int) -> bool:
        """Whether a kernel has been begun."""
        if self.hook is None:
            return False
        sgd = self._config.optimizer.name == "sgd"  # the critical rate is that of gradient descent
        with self._report.timed("ntk", wait_jax_async_dispatch=False):
            begun = self.hook(
                step,
                **self.variables,
                learning_rate=self._setup.schedule if sgd else None,
            )
            if self._due(step, self._config.ntk.every_steps):
                self._decide(self.hook)
        return begun

    def _decide(self, hook: HookSet) -> None:
        """Whether to stop; at the same step whenever the run is repeated, and in all processes."""
        bound = self._config.ntk.stop_above_condition_number
        if bound:
            hook.wait()
            if self._placement.agreed(hook.should_stop):
                self._stop = Stop(hook.stop_reason, bound)
