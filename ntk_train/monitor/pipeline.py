"""From parameters to what is written of them, for one probe, beside the loop.

    the loop's thread   kernels: dispatches
    the worker          kernels: fetches  ->  measurer: numbers  ->  summaries: the writer

Each stage is called with what the one before it returned, and knows none of the others. What failed
for want of memory, or was wrong, is tried again: at the next call, as a program is traced in the
loop's thread. Parameters that have been donated by then are lost.

The loop waits for a kernel as long as that takes, and for a writer that hangs a minute at a time.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ntk_train._types import PyTree
from ntk_train.errors import WrongKernelError
from ntk_train.monitor.convention import Convention
from ntk_train.monitor.failures import DonatedError, Failures
from ntk_train.monitor.history import History
from ntk_train.monitor.kernels import Kernels
from ntk_train.monitor.measure import Measurement, Measurer, Rate
from ntk_train.monitor.overhead import Overhead
from ntk_train.monitor.program import PendingKernel, donated
from ntk_train.monitor.summaries import Summaries
from ntk_train.monitor.switches import TracedError, tracing, usual_switches
from ntk_train.monitor.worker import Worker
from ntk_train.spectrum import ReferenceKernels

_log = logging.getLogger(__name__)

# To write a measurement, pictures included, takes a second or two; file systems stall for some ten.
_SECONDS_TO_WRITE = 60.0


class Request(NamedTuple):
    """A measurement that is asked for; its parameters are apart, as they are let go of earlier.

    Attributes:
      step: of the loop.
      t: the time, by the loop's clock.
      rate: the learning rate, or None.
      overhead: the account that its time goes to.
    """

    step: int
    t: float
    rate: Rate | None
    overhead: Overhead


class Pipeline:
    """Makes the measurements of one probe, one after the other, beside the loop.

    Attributes:
      history: the numbers so far by step.
      failures: what went wrong.

    Args:
      kernels: of the probe.
      measurer: makes the numbers of a kernel.
      summaries: writes them.
      failures: counts what goes wrong, in all of these.
      stop_when: as of `NTKHook`.
    """

    def __init__(
        self,
        kernels: Kernels,
        measurer: Measurer,
        summaries: Summaries,
        failures: Failures,
        stop_when: Callable[[Measurement], bool | str] | None = None,
    ) -> None:
        self._kernels = kernels
        self._measurer = measurer
        self._summaries = summaries
        self._stop_when = stop_when
        self.failures = failures
        self.history = History()
        self._worker = Worker(f"{failures.name}-worker")
        self._measured = threading.Event()  # what is under way, though perhaps not written yet
        self._measured.set()
        self._step: int | None = None  # of what is under way, or was last
        self._again: tuple[Request, tuple[PyTree, PyTree]] | None = None  # with its arguments
        self._latest: Measurement | None = None
        self._stop_reason = ""

    @property
    def convention(self) -> Convention | None:
        """Of its numbers; None before the kernel has been traced."""
        return self._kernels.convention

    @property
    def latest(self) -> Measurement | None:
        """The last measurement that came out, None before; waits for one under way."""
        self.wait()
        return self._latest

    @property
    def references(self) -> ReferenceKernels | None:
        """With which the next kernel is compared; waits for a measurement under way."""
        self.wait()
        return self._measurer.references

    @property
    def stop_reason(self) -> str:
        """Why the run is to end, "" where it is not."""
        return self._stop_reason

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or to be tried again."""
        return self._worker.idle and self._again is None

    def prepare(self, params: PyTree, model_state: PyTree) -> Convention:
        """Traces the kernel and starts to compile it; raises what `at_step` would survive.

        Raises:
          KernelInputError, DtypeError: as `ntk_train.ntk`; or labels or the loss do not fit the
            outputs.
        """
        program = self._kernels.prepare(params, model_state)
        self._measurer.check(program.convention, program.output_shapes)
        return program.convention

    def at_step(self, request: Request, due: bool, params: PyTree, model_state: PyTree) -> bool:
        """What there is to do at a step of the loop; whether a measurement was begun.

        It compiles what will be needed, tries again what failed, and measures where that is due.
        Never raises an `Exception`.
        """
        if self.failures.gave_up:
            return False
        try:
            if (due or self.convention is None) and tracing():  # with params that are closed over
                raise TracedError
            self._try_again()
            if not self._kernels.ready:  # it compiles beside the first steps
                self._kernels.prepare(params, model_state)
            return due and self._begin(request, params, model_state)
        except Exception as error:  # a diagnostic never ends a training run
            self.count_failure(request.step, error)
            return False

    def count_failure(self, step: Any, error: Exception) -> None:
        """Counts a failure in the loop's thread, and writes it after what is under way."""
        self.failures.of_measurement(step, error)
        if isinstance(step, (int, np.integer)):
            number, count = int(step), float(self.failures.count)
            self._after(lambda: self._summaries.scalar(number, "failures", count))

    def wait(self, timeout: float | int | None = None) -> bool:
        """Waits until nothing is under way; whether that is so.

        Args:
          timeout: seconds at most. None for as long as kernels take, and a minute for the writer.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        done = self._is_free(deadline)
        while done and self._again is not None:
            self._try_again()
            done = self._is_free(deadline)
        return done

    def close(self, timeout: float | int) -> None:
        """Finishes what is under way and flushes the writer, within so many seconds."""
        deadline = time.monotonic() + timeout
        if self.wait(timeout):
            self._kernels.wait(max(0.0, deadline - time.monotonic()))
            self._summaries.finish()
            return
        _log.warning(
            "The measurement of %s at step %s took over %g s and is lost, but for what of it has "
            "been written.",
            self.failures.name,
            self._step,
            timeout,
        )
        self._summaries.abandon()

    @usual_switches()
    def _begin(self, request: Request, params: PyTree, model_state: PyTree) -> bool:
        """Starts a measurement, after the one under way; what it was given may be donated then.

        Returns:
          Whether it was started: not while the writer hangs, nor where there is no thread for it;
          it is counted as failed then.

        Raises:
          Exception: as `Kernels.start`.
        """
        start, traced = time.perf_counter(), self._kernels.trace_seconds
        if not self.wait():
            late = f"step {self._step} has not been written within {_SECONDS_TO_WRITE:g} s"
            self.failures.of_measurement(request.step, TimeoutError(late))
            return False
        pending = self._kernels.start(request.step, params, model_state)
        if isinstance(request.rate, jax.Array):  # it may be donated to the next step
            request = request._replace(rate=jax.device_put(request.rate, may_alias=False))
        self._summaries.reopen()
        request.overhead.begin(request.t)
        traced = self._kernels.trace_seconds - traced  # has a number of its own
        blocked = time.perf_counter() - start - traced
        self._step = request.step
        self._measured.clear()
        try:
            self._worker.start(functools.partial(self._finish, request, pending, blocked))
        except RuntimeError as error:  # the system has no thread left
            self._measured.set()
            self._conclude(request, None, error, blocked=blocked, seconds=blocked)
            return False
        return True

    def _finish(self, request: Request, pending: PendingKernel, blocked: float) -> None:
        """On the worker: fetches a kernel, and makes and writes its numbers."""
        found: Measurement | None = None
        failure: Exception | None = None
        try:
            fetched = self._kernels.fetch(pending)
            found = self._measurer(request.step, fetched, request.rate)
        except Exception as error:
            failure = self._to_try_again(request, pending, error)
        finally:
            self._measured.set()
        seconds = pending.seconds if found is None else found.seconds + found.check_seconds
        self._conclude(request, found, failure, blocked=blocked, seconds=seconds)

    def _to_try_again(
        self, request: Request, pending: PendingKernel, error: Exception
    ) -> Exception | None:
        """Keeps what another try may help; what is left to be counted as a failure."""
        wrong = isinstance(error, WrongKernelError)
        if not wrong and not self._kernels.takes_less(request.step, pending.program, error):
            return error
        arguments = pending.arguments()
        if arguments is not None:
            self._again = request, arguments
        if wrong:
            return error
        return DonatedError() if arguments is None else None  # memory has been counted

    def _try_again(self) -> None:
        again, self._again = self._again, None
        if again is None:
            return
        request, arguments = again
        if donated(arguments):  # since it was found to be worth a try
            self.count_failure(request.step, DonatedError())
            return
        try:
            self._begin(request, *arguments)
        except Exception as error:  # a diagnostic never ends a training run
            self.count_failure(request.step, error)

    def _conclude(
        self,
        request: Request,
        found: Measurement | None,
        failure: Exception | None,
        *,
        blocked: float,
        seconds: float,
    ) -> None:
        """Keeps and writes what came of a measurement.

        Args:
          request: the measurement.
          found: None where it failed.
          failure: why; None where it did not, or where it is to be tried again.
          blocked: seconds for which the loop was held up.
          seconds: that it took on device and host, whatever came of it.
        """
        start = time.perf_counter()
        try:
            if found is not None:
                self.failures.success()
                first, self._latest = self._latest is None, found
                self._consider(found)
                # The first is all there is: the share would be that of other probes.
                share = None if first else request.overhead.share(seconds)
                self._write(found, blocked, share)
            elif failure is not None:
                self.failures.of_measurement(request.step, failure)
                self._summaries.scalar(request.step, "failures", float(self.failures.count))
        except Exception as error:
            self.failures.of_writing("The summary", error)
        finally:
            request.overhead.end(seconds + time.perf_counter() - start)

    def _consider(self, found: Measurement) -> None:
        """Asks whether to stop."""
        if self._stop_when is None or self._stop_reason:
            return
        try:
            verdict = self._stop_when(found)
        except Exception as error:
            self.failures.of_writing("stop_when", error)
            return
        if verdict:
            said = verdict if isinstance(verdict, str) else "stop_when holds"
            self._stop_reason = f"{said} at step {found.step}"
            _log.warning("%s asks to stop: %s.", self.failures.name, self._stop_reason)
            self._summaries.text(found.step, "stop_reason", self._stop_reason)

    def _write(self, found: Measurement, blocked: float, share: float | None) -> None:
        self.history.append(found.step, found.diagnostics.scalars())
        own = {
            "seconds": found.seconds,
            "kernel_seconds": found.kernel_seconds,
            "blocked_seconds": blocked,
            "trace_seconds": self._kernels.trace_seconds,
            "compile_seconds": self._kernels.compile_seconds,
            "failures": float(self.failures.count),
        }
        if share is not None:
            own["time_share"] = share
        if found.certificate is not None:
            own["deviation"] = found.certificate.deviation
        self._summaries.write(found, own, self.history)

    def _after(self, job: Callable[[], None]) -> None:
        """Does something short after what is under way; not at all while the writer hangs."""
        if self._is_free(None):
            try:
                self._worker.start(job)
            except RuntimeError:  # the system has no thread left
                job()

    def _is_free(self, deadline: float | None) -> bool:
        """Waits for the worker; whether it is idle."""
        if deadline is not None:
            return self._worker.wait(max(0.0, deadline - time.monotonic()))
        self._measured.wait()
        return self._worker.wait(_SECONDS_TO_WRITE)
