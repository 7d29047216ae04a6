"""The hook: in anyone's training loop, the kernel of a fixed probe batch, logged as it changes.

    hook = NTKHook(f, probe, every_steps=100, writer=writer)
    for step, batch in enumerate(batches):
        state = train_step(state, batch)
        hook(step, params=state.params)

It compiles once, on a thread beside the training steps, computes the kernel at the parameters of
the step, takes its spectrum and diagnostics in float64 on the host and writes `ntk/<metric>`;
docs/diagnostics.md says what each means. Whatever goes wrong is logged and counted, and training
goes on.
"""

import dataclasses
import importlib.util
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._types import ApplyFn, ParamFilter, PyTree
from ntk_train.errors import ConventionError, KernelInputError
from ntk_train.kernel.auto import check_implementation
from ntk_train.kernel.problem import on_one_device, parse_outputs
from ntk_train.kernel.tangent_kernel import precision_of_products
from ntk_train.monitor.convention import Convention
from ntk_train.monitor.program import KernelProgram, signature
from ntk_train.monitor.schedule import Schedule
from ntk_train.spectrum import (
    Diagnostics,
    ReferenceKernels,
    Spectrum,
    check_comparable,
    diagnose,
)

_log = logging.getLogger(__name__)

# Outputs of an example computed alone and in the batch differ by rounding only, if examples are
# independent; TF32 products differ by about 1e-3, BatchNorm in train mode by about 1.
_COUPLING_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """What the hook found at one step.

    Attributes:
      step: the step of the loop.
      kernel: the kernel on the host, [N, N] or [N, O, N, O].
      diagnostics: its spectrum, its alignment with the labels, its change since the first one.
      seconds: wall-clock time of the kernel and its spectrum, without compilation and without
        the training steps that were still under way.
    """

    step: int
    kernel: np.ndarray
    diagnostics: Diagnostics
    seconds: float

    @property
    def spectrum(self) -> Spectrum:
        """The kernel's eigenvalues and what follows from them."""
        return self.diagnostics.spectrum


class NTKHook:
    """Logs the tangent kernel's spectrum on a probe batch while a network trains.

    Attributes:
      convention: the choices behind the numbers, None until the first call or `prepare`.
      latest: the last `Measurement`, None before the first.
      references: the first kernel and the previous one, with which the next is compared; None
        before the first. Keep `references.to_dict()` in the checkpoint.
      failures: how many measurements and writes failed, and were survived.

    Args:
      f: `f(params, x)`, or `f(params, x, model_state)` if the hook is called with a model_state.
        `ntk_train.linen_fn(model, train=False)` makes one.
      probe: N inputs with the examples on axis 0, fixed for the run and never augmented.
      labels: the class of each probe input [N], or targets [N, O]; with them the alignment of the
        kernel with the labels is logged.
      references: those of the run that this one continues, so that its curves go on.
      writer: anything with the methods of clu's `MetricWriter`; None keeps to `latest`.
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
      max_overhead: of the run's time, above which the period is stretched: after a measurement that
        took s seconds, `every_steps` and `every_secs` are left out for s / max_overhead seconds;
        0.01 is one per cent. None for no limit. `on_steps` and `last_step` run in any case.
      prefix: the tags are `<prefix>/lambda_max` and so on.
      pictures: whether to draw the spectrum; needs matplotlib, and is skipped without it.
      write_hparams: whether to write the convention as hparams too. False for a loop that merges
        `convention.hparams()` into its own, as most writers take them once.
      max_failures: after so many failed measurements in a row the hook gives up, and says so.

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
        writer: Any = None,
        every_steps: int | None = None,
        on_steps: Collection[int] = (),
        every_secs: float | None = None,
        last_step: int | None = None,
        outputs: Any = "trace",
        implementation: str = "auto",
        batched: bool = True,
        precision: str | None = "highest",
        param_filter: ParamFilter | None = None,
        max_overhead: float | None = None,
        prefix: str = "ntk",
        pictures: bool = True,
        write_hparams: bool = True,
        max_failures: int = 3,
    ) -> None:
        self._schedule = Schedule(
            every_steps=every_steps, on_steps=on_steps, every_secs=every_secs, last_step=last_step
        )
        _check(outputs, implementation, precision, max_overhead, max_failures)
        self._f = f
        self._probe = _checked_probe(probe, batched)
        self._labels = _checked_labels(labels, self._probe)
        self.references = references
        self._writer = writer
        self._kernel_options: dict[str, Any] = {
            "outputs": outputs,
            "implementation": implementation,
            "batched": batched,
            "precision": precision,
            "param_filter": param_filter,
        }
        self._prefix = prefix
        self._pictures = pictures and importlib.util.find_spec("matplotlib") is not None
        if pictures and not self._pictures:
            _log.info("No pictures of the spectrum: pip install 'ntk_train[plot]' for them.")
        self._write_hparams = write_hparams
        self._max_overhead = max_overhead
        self._started: float | None = None  # when the first measurement began
        self._spent = 0.0  # seconds since then in measurements, the latest and its writing not yet
        self._max_failures = max_failures
        self._failures_in_a_row = 0
        self._program: KernelProgram | None = None
        self._announced: Convention | None = None
        self._failed_writes: set[str] = set()
        self.convention: Convention | None = None
        self.latest: Measurement | None = None
        self.failures = 0

    def __call__(
        self,
        step: int | np.integer | jax.Array,
        t: float | None = None,
        *,
        params: PyTree,
        model_state: Mapping[str, PyTree] | None = None,
    ) -> bool:
        """Runs if it is due.

        Args:
          step: the step of the loop.
          t: the time in seconds, by default `time.time()`.
          params: the parameters to differentiate, without running statistics.
          model_state: what else f needs (running statistics), held constant.

        Returns:
          Whether a measurement was made. Never raises an `Exception`.
        """
        if self._failures_in_a_row >= self._max_failures:
            return False
        try:
            number = int(step)  # a counter on the device may be donated to the next step
            due = self._schedule.due(number, t)
            if due or self._program is None:  # so that it compiles beside the first steps
                self._prepare_for(params, model_state)
            if not due:
                return False
            self._started = self._started or time.perf_counter()
            self.latest = self._measure(number, params, model_state)
        except Exception as error:  # a diagnostic never ends a training run
            self._survive(step, error)
            return False
        self._failures_in_a_row = 0
        start = time.perf_counter()
        self._write(self.latest)
        cost = self.latest.seconds + time.perf_counter() - start
        self._spent += cost
        if self._max_overhead is not None:
            self._schedule.rest(cost / self._max_overhead)
        return True

    def prepare(
        self, *, params: PyTree, model_state: Mapping[str, PyTree] | None = None
    ) -> Convention:
        """Traces the kernel and starts to compile it, which `__call__` does otherwise.

        Here, before training, what is wrong with the arguments raises.

        Returns:
          The convention of the numbers to come.

        Raises:
          KernelInputError, DtypeError: as `ntk_train.ntk`.
        """
        return self._prepare_for(params, model_state).convention

    def close(self) -> None:
        """Waits for a compilation under way and flushes the writer, which stays the caller's."""
        if self._program is not None:
            self._program.wait()
        if self._writer is not None:
            self._attempt("flush", self._writer.flush)

    def _prepare_for(self, params: PyTree, model_state: Any) -> KernelProgram:
        if self._program is not None:
            if self._program.signature == signature((params, model_state)):
                return self._program
            _log.warning(
                "Shapes, dtypes or placement of params changed: the kernel is compiled anew."
            )
        self._program = KernelProgram(
            self._f, self._probe, self._kernel_options, params, model_state
        )
        self.convention = self._program.convention
        return self._program

    def _measure(self, step: int, params: PyTree, model_state: Any) -> Measurement:
        assert self._program is not None
        kernel, seconds = self._program(params, model_state)
        coupling = self._program.coupling(params, model_state)
        if coupling is not None and coupling > _COUPLING_TOLERANCE:
            _log.warning(
                "The outputs of a probe input change by %.2g relative to the largest when it is "
                "computed alone: examples interact (BatchNorm in train mode?), but batched=True "
                "takes them one by one. Switch f to eval mode, or give the hook batched=False.",
                coupling,
            )
        start = time.perf_counter()
        found = self._diagnose(step, kernel)
        if found.spectrum.lambda_max == 0:
            _log.warning("The kernel at step %d is zero: outputs do not depend on params.", step)
        return Measurement(step, kernel, found, seconds + time.perf_counter() - start)

    def _diagnose(self, step: int, kernel: np.ndarray) -> Diagnostics:
        """The numbers of a kernel, which becomes the previous one."""
        assert self._program is not None
        references, convention = self.references, self._program.convention
        if references is not None and not _compare(references, kernel, convention):
            _log.warning(
                "The kernel's convention is another one than before: its change is counted anew "
                "from step %d.",
                step,
            )
            references = None
        # A kernel of zeros has no direction that could have changed.
        moved = references if np.any(kernel) else None
        found = diagnose(
            kernel,
            convention,
            eps=self._program.eps,
            labels=self._labels,
            references=moved,
            step=step,
        )
        if references is None:
            self.references = ReferenceKernels.start(kernel, step, convention)
        else:
            self.references = references.advance(kernel, step, convention)
        return found

    def _write(self, found: Measurement) -> None:
        """Writes each kind of summary on its own: what fails does not take the others along."""
        writer, step, spectrum = self._writer, found.step, found.spectrum
        if writer is None:
            return
        scalars = found.diagnostics.scalars()
        scalars |= {"seconds": found.seconds, "failures": self.failures}
        if self._spent > 0 and self._started is not None:  # not of the first, which is all there is
            elapsed = time.perf_counter() - self._started
            scalars["time_share"] = (self._spent + found.seconds) / elapsed
        self._attempt("write_scalars", lambda: writer.write_scalars(step, self._tags(scalars)))
        signal = spectrum.eigenvalues[spectrum.eigenvalues > spectrum.noise_floor]
        if signal.size:
            values = self._tags({"log10_eigenvalues": np.log10(signal)})
            self._attempt("write_histograms", lambda: writer.write_histograms(step, values))
        if self._pictures:
            self._attempt("write_images", lambda: self._write_picture(step, spectrum))
        convention = self.convention
        if convention is not None and convention != self._announced:
            text = self._tags({"convention": convention.describe()})
            self._attempt("write_texts", lambda: writer.write_texts(step, text))
            if self._write_hparams and self._announced is None:
                hparams = convention.hparams(self._prefix)
                self._attempt("write_hparams", lambda: writer.write_hparams(hparams))
            self._announced = convention

    def _write_picture(self, step: int, spectrum: Spectrum) -> None:
        from ntk_train.monitor.pictures import spectrum_picture

        picture = spectrum_picture(spectrum, f"step {step}")
        self._writer.write_images(step, self._tags({"spectrum": picture}))

    def _attempt(self, name: str, write: Callable[[], None]) -> None:
        """Writes; what goes wrong is counted, and said once for each kind of summary."""
        try:
            write()
        except Exception as error:  # the writer is not ours, and training must go on
            self.failures += 1
            if name not in self._failed_writes:
                _log.warning("The writer's %s failed: %s: %s", name, type(error).__name__, error)
            self._failed_writes.add(name)

    def _tags(self, values: dict[str, Any]) -> dict[str, Any]:
        return {f"{self._prefix}/{name}": value for name, value in values.items()}

    def _survive(self, step: Any, error: Exception) -> None:
        """Logs and counts a failure; training goes on."""
        self.failures += 1
        self._failures_in_a_row += 1
        remedy = ""
        if "RESOURCE_EXHAUSTED" in str(error):
            remedy = " Out of memory: use fewer probe inputs, outputs='trace' or a lower precision."
        _log.warning(
            "No kernel at step %s (failure %d, training goes on): %s: %s%s",
            step,
            self.failures,
            type(error).__name__,
            error,
            remedy,
            exc_info=error if self.failures == 1 else None,
        )
        if self._failures_in_a_row >= self._max_failures:
            _log.warning("The hook gives up after %d failures in a row.", self._max_failures)
        if self._writer is not None and isinstance(step, (int, np.integer)):
            count = self._tags({"failures": self.failures})
            self._attempt("write_scalars", lambda: self._writer.write_scalars(int(step), count))


def _check(
    outputs: Any,
    implementation: str,
    precision: str | None,
    max_overhead: float | None,
    max_failures: int,
) -> None:
    """Refuses what could not work at any step."""
    if isinstance(outputs, str) and outputs == "diagonal":
        msg = "outputs='diagonal' is no square kernel and has no spectrum; use 'full' or 'trace'."
        raise KernelInputError(msg)
    parse_outputs(outputs, None)
    check_implementation(implementation)
    with precision_of_products(precision):
        pass
    if max_overhead is not None and not max_overhead > 0:
        msg = f"max_overhead={max_overhead}; expected a part of the run's time, as 0.01, or None."
        raise KernelInputError(msg)
    if max_failures < 1:
        msg = f"max_failures={max_failures}; expected 1 or more, or the hook would never run."
        raise KernelInputError(msg)


def _compare(references: ReferenceKernels, kernel: np.ndarray, convention: Convention) -> bool:
    """Whether a kernel can be compared with earlier ones."""
    try:
        check_comparable(references.convention, convention)
    except ConventionError:
        return False
    return references.initial.shape == kernel.shape


def _checked_labels(labels: Any, probe: PyTree) -> np.ndarray | None:
    if labels is None:
        return None
    labels, n = np.asarray(labels), len(jax.tree.leaves(probe)[0])
    if labels.ndim not in (1, 2) or len(labels) != n:
        msg = f"labels has shape {labels.shape}; expected one for each of the {n} probe inputs."
        raise KernelInputError(msg)
    return labels


def _checked_probe(probe: PyTree, batched: bool) -> PyTree:
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(probe)]
    if not shapes or any(not shape or shape[0] == 0 for shape in shapes):
        msg = f"probe has leaves of shapes {shapes}; expected at least one example on axis 0."
        raise KernelInputError(msg)
    if batched and len({shape[0] for shape in shapes}) > 1:
        msg = f"probe has leaves of shapes {shapes}; expected as many examples in each."
        raise KernelInputError(msg)
    probe = jax.tree.map(jnp.asarray, on_one_device("probe", probe))
    for leaf in jax.tree.leaves(probe):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.all(jnp.isfinite(leaf))):
            msg = "probe holds NaN or infinite numbers; every kernel would be NaN."
            raise KernelInputError(msg)
    return probe
