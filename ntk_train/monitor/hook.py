"""The hook: in anyone's training loop, the kernel of a fixed probe batch, logged as it changes.

    hook = NTKHook(f, probe, every_steps=100, writer=writer)
    for step, batch in enumerate(batches):
        state = train_step(state, batch)
        hook(step, params=state.params)
    hook.close()

    the loop   schedule: is it due?  ->  kernels: dispatches the kernel, returns
    a thread   kernels: fetches it   ->  measure: numbers in float64  ->  summaries: the writer

It compiles once, on a thread beside the training steps, and the loop goes on while the host thread
takes the spectrum; docs/diagnostics.md says what each number means. Whatever goes wrong is logged
and counted, and training goes on.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np

from ntk_train._types import ApplyFn, ParamFilter, PyTree
from ntk_train.kernel.on_mesh import division_of
from ntk_train.kernel.options import KernelOptions
from ntk_train.monitor.checks import check_kinds, check_outputs, checked_labels, checked_probe
from ntk_train.monitor.convention import Convention
from ntk_train.monitor.failures import Failures
from ntk_train.monitor.history import History
from ntk_train.monitor.kernels import Kernels
from ntk_train.monitor.measure import Measurement, Measurer, Rate
from ntk_train.monitor.overhead import Overhead
from ntk_train.monitor.pipeline import Pipeline, Request
from ntk_train.monitor.schedule import Schedule
from ntk_train.monitor.summaries import Summaries
from ntk_train.monitor.switches import TracedError, refuse_traced, tracing
from ntk_train.monitor.writers import as_metric_writer
from ntk_train.spectrum import CrossEntropy, ReferenceKernels, Training

AnyHook = TypeVar("AnyHook", bound="Hook")


class Hook:
    """One or more probes that are measured at the same steps.

    Attributes:
      pipelines: of each probe, by its name.
      schedule: when it runs.
      overhead: the account of the time of all of them.

    Args:
      pipelines: as above; one at least.
      schedule: as above.
      overhead: as above.
    """

    def __init__(
        self, pipelines: Mapping[str, Pipeline], schedule: Schedule, overhead: Overhead
    ) -> None:
        self.pipelines = dict(pipelines)
        self.schedule = schedule
        self.overhead = overhead

    @property
    def failures(self) -> int:
        """How many measurements and writes have failed so far, and were survived."""
        return sum(pipeline.failures.count for pipeline in self.pipelines.values())

    @property
    def gave_up(self) -> bool:
        """Whether too many measurements in a row have failed, so that there will be no more."""
        return all(pipeline.failures.gave_up for pipeline in self.pipelines.values())

    @property
    def should_stop(self) -> bool:
        """Whether `stop_when` has asked to end the run.

        It is known when the measurement is done, some steps later. A run that is to end at the same
        step whenever it is repeated calls `wait` first.
        """
        return any(pipeline.stop_reason for pipeline in self.pipelines.values())

    @property
    def stop_reason(self) -> str:
        """Why `should_stop`, by the probes that ask for it; "" before."""
        reasons = {name: pipeline.stop_reason for name, pipeline in self.pipelines.items()}
        return "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason)

    @property
    def idle(self) -> bool:
        """Whether no measurement is under way, so that `latest` does not wait."""
        return all(pipeline.idle for pipeline in self.pipelines.values())

    def __call__(
        self,
        step: int | np.integer | jax.Array,
        t: float | int | None = None,
        *,
        params: PyTree,
        model_state: Mapping[str, PyTree] | None = None,
        learning_rate: Rate | None = None,
    ) -> bool:
        """Runs if it is due.

        Args:
          step: the step of the loop. A counter on the device is waited for, at every call.
          t: the time in seconds, by default `time.time()`.
          params: the parameters to differentiate, without running statistics.
          model_state: what else f needs (running statistics), held constant.
          learning_rate: of this step, or an optax schedule; for its ratio to the critical one.

        Returns:
          Whether a measurement was begun; whether it comes out, `latest` and `failures` show. Never
          raises an `Exception`.
        """
        if self.gave_up:
            return False  # without waiting for a step on the device
        pipelines = list(self.pipelines.values())
        try:
            refuse_traced(step, t, params, model_state, learning_rate)
            number = int(step)  # a counter on the device may be donated to the next step
            t = time.time() if t is None else t
            due = self.schedule.due(number, t, self.overhead.rests_until)
        except Exception as error:  # a diagnostic never ends a training run
            pipelines[0].count_failure(step, error)
            return False
        start = time.perf_counter()
        request = Request(number, t, learning_rate, self.overhead)
        # Open until the last has begun, so that the schedule rests for the time of all together.
        several = due and len(pipelines) > 1
        with self.overhead.together(t) if several else contextlib.nullcontext():
            begun = [each.at_step(request, due, params, model_state) for each in pipelines]
        if due:
            self.schedule.held_up(time.perf_counter() - start)
        return any(begun)

    def wait(self, timeout: float | int | None = None) -> bool:
        """Waits until nothing is under way; whether that is so.

        Args:
          timeout: seconds at most, for all probes together. None for as long as a kernel takes; for
            a writer that hangs, a minute.
        """
        left = (lambda: None) if timeout is None else _countdown(timeout)
        return all([pipeline.wait(left()) for pipeline in self.pipelines.values()])

    def close(self, timeout: float | int = 60) -> None:
        """Finishes what is under way and flushes the writer, which stays the caller's.

        Args:
          timeout: seconds, for all probes together, after which a measurement that is not done is
            given up, and said to be; it writes no more then, so that the writer may be closed.
        """
        left = _countdown(timeout)

        def close(pipeline: Pipeline) -> None:
            pipeline.close(left())

        with contextlib.ExitStack() as stack:
            for pipeline in self.pipelines.values():
                stack.callback(close, pipeline)

    def __enter__(self: AnyHook) -> AnyHook:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes it, on exceptions too."""
        self.close()

    def _prepare(self, params: PyTree, model_state: PyTree) -> dict[str, Convention]:
        refuse_traced(params, model_state)
        if tracing():
            raise TracedError
        return {
            name: pipeline.prepare(params, model_state) for name, pipeline in self.pipelines.items()
        }


class NTKHook(Hook):
    """Logs the tangent kernel's spectrum on a probe batch while a network trains.

    A call returns when the kernel has been dispatched; params may be donated to the next step. One
    measurement is under way at a time: a call that is due earlier waits for it. The writer is
    called from the hook's own thread, in the order of the steps, and has to allow that beside calls
    from the loop, as clu's and TensorBoard's do. Call `close` at the end, or take the hook as a
    context manager.

    What it compiles is kept on disk (`ntk_train.monitor.compiled`), but for a CPU.

    Attributes:
      schedule: when it runs.
      overhead: the account of its time.

    Args:
      f: `f(params, x)`, or `f(params, x, model_state)` if the hook is called with a model_state.
        `ntk_train.linen_fn(model, train=False)` makes one.
      probe: N inputs with the examples on axis 0, fixed for the run and never augmented. With
        `batched=False` any inputs of f, as the nodes and edges of a graph and a temperature; N is
        that of the outputs then.
      labels: the class of each probe input, integers [N] or [N, 1] from 0, or targets [N, O], real
        numbers; with them the alignment
        of the kernel with the labels is logged.
      references: those of the run that this one continues, so that its curves go on.
      training: loss, momentum and batch size of the run; with them the critical learning rates are
        logged, and, where the call gives the learning rate, its ratios to them. Needs
        outputs="full", or a network of one output. For logits [N, T, V] or several heads the
        `CrossEntropy` has to say its classes.
      top_k: how many eigenvectors are the top space, for its rotation and its share of the labels;
        by default as many as there are outputs for outputs="full", as their eigenvalues come in
        groups, and 1 otherwise.
      per_layer: as in `ntk_train.ntk`: True, or a function from a parameter's path to its group.
        Each group's share, largest eigenvalue and alignment are logged as `<prefix>_layers/...`.
      stop_when: called with each `Measurement`; if it returns True, or a text that says why,
        `should_stop` becomes True. For searches: `lambda found: found.spectrum.condition_number >
        1e6`.
      writer: anything with the methods of clu's `MetricWriter`, or the `SummaryWriter` of Flax,
        tensorboardX or PyTorch; None keeps to `latest`. What it has no method for is not written.
      every_steps: run at every multiple of this.
      on_steps: run at each of these steps.
      every_secs: run whenever so many seconds have passed.
      last_step: run at this step too.
      outputs: as in `ntk_train.ntk`, square kernels only: "full", "trace", "sum" or one chosen
        logit for each probe input.
      implementation: as in `ntk_train.ntk`.
      batched: as in `ntk_train.ntk`; False for BatchNorm in train mode.
      precision: as in `ntk_train.ntk`.
      param_filter: as in `ntk_train.ntk`.
      max_overhead: of the run's time, above which the period is stretched: `every_steps` and
        `every_secs` are left out until another measurement, of twice the seconds on device and host
        that the slowest so far took, would leave their share below it; 0.01 is one per cent. None
        for no limit. `on_steps` and `last_step` run in any case. Tracing and compilation, once, are
        not bounded.
      prefix: the tags are `<prefix>/lambda_max` and so on.
      pictures: whether to draw, of the first measurement, the second, third, fifth, ninth, ... and
        the last; needs matplotlib, and is skipped without it.
      write_hparams: whether to write the convention as hparams too. False for a loop that merges
        `convention.hparams()` into its own, as most writers take them once.
      max_failures: after so many failed measurements in a row the hook gives up, and says so.
      check: whether the first kernel, the second, fourth, eighth and so on are compared with plain
        derivatives of f, which takes a few backward passes over the probe each time. One that is
        wrong is not logged; an error names the layers, and kernels come from whole Jacobians then.
      mesh: devices over which the probe is divided, as in `ntk_train.ntk`: those that the training
        step runs on.
      axis: of the mesh, None for its first.

    Raises:
      KernelInputError: an argument that could not work at any step.
    """

    def __init__(
        self,
        f: ApplyFn,
        probe: PyTree,
        *,
        labels: Any = None,
        references: ReferenceKernels | None = None,
        training: Training | None = None,
        top_k: int | None = None,
        per_layer: bool | Callable[[str], str] = False,
        stop_when: Callable[[Measurement], bool | str] | None = None,
        writer: object = None,
        every_steps: int | None = None,
        on_steps: Collection[int] = (),
        every_secs: float | None = None,
        last_step: int | None = None,
        outputs: Any = "trace",
        implementation: str = "auto",
        batched: bool = True,
        precision: str | None = "float32",
        param_filter: ParamFilter | None = None,
        max_overhead: float | None = None,
        prefix: str = "ntk",
        pictures: bool = True,
        write_hparams: bool = True,
        max_failures: int = 3,
        check: bool = True,
        mesh: jax.sharding.Mesh | None = None,
        axis: str | None = None,
    ) -> None:
        schedule = Schedule(
            every_steps=every_steps, on_steps=on_steps, every_secs=every_secs, last_step=last_step
        )
        check_kinds(
            f=f,
            references=references,
            training=training,
            top_k=top_k,
            stop_when=stop_when,
            max_overhead=max_overhead,
            prefix=prefix,
            pictures=pictures,
            write_hparams=write_hparams,
            max_failures=max_failures,
        )
        options = KernelOptions(
            outputs=outputs,
            implementation=implementation,
            batched=batched,
            precision=precision,
            param_filter=param_filter,
            per_layer=per_layer,
        )
        probe = checked_probe(probe, batched)
        check_outputs(options.outputs, probe if batched else None)
        labels = checked_labels(labels, probe if batched else None)
        failures = Failures(prefix, max_failures)
        kernels = Kernels(
            f,
            probe,
            options,
            with_logits=training is not None and isinstance(training.loss, CrossEntropy),
            check=check,
            failures=failures,
            division=division_of(mesh, axis, options),
        )
        measurer = Measurer(labels, training, references, top_k)
        summaries = Summaries(
            as_metric_writer(writer),
            prefix,
            pictures=pictures,
            hparams=write_hparams,
            failures=failures,
        )
        self.pipeline = Pipeline(kernels, measurer, summaries, failures, stop_when)
        super().__init__({prefix: self.pipeline}, schedule, Overhead(max_overhead))

    @property
    def stop_reason(self) -> str:
        """Why `should_stop`, "" before."""
        return self.pipeline.stop_reason

    @property
    def convention(self) -> Convention | None:
        """The choices behind the numbers, None until the first call or `prepare`."""
        return self.pipeline.convention

    @property
    def latest(self) -> Measurement | None:
        """The last measurement that came out, None before; waits for one under way."""
        return self.pipeline.latest

    @property
    def references(self) -> ReferenceKernels | None:
        """The first kernel and the previous one, with which the next is compared.

        None before the first; waits for a measurement under way. Keep `references.to_dict()` in the
        checkpoint of the same step.
        """
        return self.pipeline.references

    @property
    def history(self) -> History:
        """The numbers so far by step."""
        return self.pipeline.history

    def prepare(
        self, *, params: PyTree, model_state: Mapping[str, PyTree] | None = None
    ) -> Convention:
        """Traces the kernel and starts to compile it, which `__call__` does otherwise.

        Here, before training, what is wrong with the arguments raises.

        Returns:
          The convention of the numbers to come.

        Raises:
          KernelInputError, DtypeError: as `ntk_train.ntk`; or labels or the loss do not fit the
            outputs, or JAX traces the caller.
        """
        (convention,) = self._prepare(params, model_state).values()
        return convention


def _countdown(timeout: float | int) -> Callable[[], float]:
    """What is left of so many seconds, whenever it is called; the first call starts it."""
    end: float | None = None

    def left() -> float:
        nonlocal end
        if end is None:
            end = time.monotonic() + timeout
            return float(timeout)
        return max(0.0, end - time.monotonic())

    return left
