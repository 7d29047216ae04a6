"""From parameters to a measurement, beside the loop: compiled, dispatched, fetched, tried again.

    begin     the loop's thread: the program for these parameters, its dispatch
    worker    fetches the kernel  ->  measurer  ->  `ended`, with a measurement or an error

Where the device runs out of memory, in compilation or at run time, the kernel is compiled anew with
half of it and tried again, until there is nothing to halve: at once where dispatch fails, and at
the next call where that shows later, as a program is traced in the loop's thread, whose JAX
contexts it needs. Parameters that have been donated by then are lost, and the next measurement is
made with less.

The first kernel, the second, fourth, eighth and so on are compared with plain derivatives. One that
is wrong is no measurement: the step is tried again by Jacobian contraction, as are all later ones.

The loop waits for a kernel as long as that takes, and for a writer that hangs a minute at a time.
"""

import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Callable

import jax
from jax.sharding import AxisType

from ntk_train._types import ApplyFn, PyTree
from ntk_train.errors import WrongKernelError
from ntk_train.kernel.certificate import Certificate
from ntk_train.kernel.options import KernelOptions
from ntk_train.monitor.certifier import why_wrong
from ntk_train.monitor.convention import Convention
from ntk_train.monitor.failures import DonatedError, Failures, out_of_memory
from ntk_train.monitor.measure import Measurement, Measurer, Rate, is_coupled
from ntk_train.monitor.memory import MemoryBudget
from ntk_train.monitor.program import (
    FetchedKernel,
    KernelProgram,
    PendingKernel,
    donated,
    signature,
)
from ntk_train.monitor.switches import usual_switches
from ntk_train.monitor.worker import Worker
from ntk_train.spectrum import ReferenceKernels

_log = logging.getLogger(__name__)

# To write a measurement, pictures included, takes a second or two; file systems stall for some ten.
_SECONDS_TO_WRITE = 60.0


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """A measurement that is asked for.

    Attributes:
      step: of the loop.
      params: parameters to differentiate.
      model_state: what else f needs, or None.
      rate: the learning rate, or None.
    """

    step: int
    params: PyTree
    model_state: PyTree
    rate: Rate | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What came of it.

    Attributes:
      step: of the loop.
      convention: of the program that was run.
      found: the measurement; None where it failed.
      error: why it failed; None where it did not, or where it is to be tried again.
      blocked: seconds for which the loop was held up.
      seconds: that it took on device and host, whatever came of it.
    """

    step: int
    convention: Convention
    found: Measurement | None
    error: Exception | None
    blocked: float
    seconds: float


class Pipeline:
    """Makes the measurements of one probe, one after the other, beside the loop.

    Args:
      f: `f(params, x)` or `f(params, x, model_state)`.
      probe: its inputs.
      options: of the kernel.
      with_logits: whether the measurer needs the outputs.
      check: whether kernels are compared with plain derivatives now and then.
      measurer: makes the numbers.
      failures: counts what runs out of memory.
      name: of the worker's thread.
      begun: called in the loop's thread when a kernel is under way.
      ended: called on the worker with what came of it; handles its own exceptions.
      lost: called in the loop's thread with a step whose kernel could not be tried again, and why.
    """

    def __init__(
        self,
        f: ApplyFn,
        probe: PyTree,
        options: KernelOptions,
        *,
        with_logits: bool,
        check: bool,
        measurer: Measurer,
        failures: Failures,
        name: str,
        begun: Callable[[], None],
        ended: Callable[[Outcome], None],
        lost: Callable[[int, Exception], None],
    ) -> None:
        self._trace = functools.partial(
            KernelProgram, f, probe, with_logits=with_logits, checked=check
        )
        self._why_wrong = functools.partial(why_wrong, f=f, probe=probe)
        self._options = options
        self._begins = 0  # measurements that were started
        self._checked: KernelProgram | None = None  # the last program of which one was
        self._wrong: tuple[KernelProgram, Certificate] | None = None  # whose kernel was wrong
        self._measurer = measurer
        self._failures = failures
        self._worker = Worker(name)
        self._begun = begun
        self._ended = ended
        self._lost = lost
        self._measured = threading.Event()  # what is under way, though perhaps not written yet
        self._measured.set()
        self._step: int | None = None
        self._program: KernelProgram | None = None
        self._memory = MemoryBudget()
        self._again: Asked | None = None  # what ran out of memory and is to be tried with less

    @property
    def convention(self) -> Convention | None:
        """Of the program; None before there is one."""
        return None if self._program is None else self._program.convention

    @property
    def references(self) -> ReferenceKernels | None:
        """Of the measurer."""
        return self._measurer.references

    @property
    def step(self) -> int | None:
        """Of the measurement that is under way, or was last; None before the first."""
        return self._step

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or to be tried again."""
        return self._worker.idle and self._again is None

    @usual_switches()
    def prepare(self, params: PyTree, model_state: PyTree) -> KernelProgram:
        """The program for these parameters; traced, and being compiled, if it is not there yet.

        Raises:
          KernelInputError, DtypeError: as `ntk_train.ntk`.
        """
        budget = self._memory.bytes
        if self._program is not None:
            same = self._program.signature == signature((params, model_state))
            is_current = self._program.budget == budget and not self._is_wrong
            if same and is_current and not self._program.cancelled:
                return self._program
            if not same:
                _log.warning(
                    "Shapes, dtypes or placement of params changed: the kernel is compiled anew."
                )
        if self._is_wrong:
            self._replace(params, model_state)
        options = dataclasses.replace(self._options, memory_budget=budget)
        self._program = self._traced(options, params, model_state)
        return self._program

    @property
    def _is_wrong(self) -> bool:
        """Whether the program that is there has made a wrong kernel."""
        return self._wrong is not None and self._wrong[0] is self._program

    def _replace(self, params: PyTree, model_state: PyTree) -> None:
        """Says where the program is wrong, and takes plain Jacobians from now on."""
        assert self._wrong is not None
        options, certificate = self._options, self._wrong[1]
        self._options = dataclasses.replace(options, implementation="jacobian_contraction")
        try:
            text = self._why_wrong(
                certificate, options=options, params=params, model_state=model_state
            )
            _log.error("%s: %s From now on it is computed so.", self._failures.name, text)
        except Exception as error:  # it is wrong all the same
            _log.warning("Where the kernel is wrong could not be found: %s", error)

    def _traced(self, options: KernelOptions, params: PyTree, model_state: PyTree) -> KernelProgram:
        """A program; by Jacobians where f divides what it computes over a mesh with explicit axes.

        The factors of such a layer are divided differently from each other, which is an error of
        types there, as is any product of the two.
        """
        try:
            return self._trace(options, params, model_state)
        except Exception as error:
            explicit = AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types
            if not explicit or options.implementation != "auto":
                raise
            plain = dataclasses.replace(options, implementation="jacobian_contraction")
            program = self._trace(plain, params, model_state)
            _log.warning(
                "The kernel is computed from whole Jacobians: on this mesh with explicit axes its "
                "factors have no product. %s: %s",
                type(error).__name__,
                error,
            )
            return program

    def follow(self, params: PyTree, model_state: PyTree) -> None:
        """At a step that is not measured: compiles what will be needed, tries again what failed."""
        self._try_again()
        program = self._program
        if program is None or program.budget != self._memory.bytes or self._is_wrong:
            self.prepare(params, model_state)

    @usual_switches()
    def begin(self, asked: Asked) -> bool:
        """Starts a measurement, after the one under way; what it was given may be donated then.

        Returns:
          Whether it was started: not while the writer hangs, nor where there is no thread for it;
          it is counted as failed then.

        Raises:
          KernelInputError, DtypeError: as `ntk_train.ntk`.
          JaxRuntimeError: the kernel could not be compiled or dispatched.
        """
        start = time.perf_counter()
        if not self.wait():
            late = f"step {self._step} has not been written within {_SECONDS_TO_WRITE:g} s"
            self._failures.of_measurement(asked.step, TimeoutError(late))
            return False
        pending = self._start(asked)
        rate = asked.rate
        if isinstance(rate, jax.Array):  # it may be donated to the next step with its optimizer
            rate = jax.device_put(rate, may_alias=False)
        self._begun()
        blocked = time.perf_counter() - start
        self._step = asked.step
        self._measured.clear()
        try:
            self._worker.start(functools.partial(self._finish, asked.step, pending, rate, blocked))
        except RuntimeError as error:  # the system has no thread left
            self._measured.set()
            convention = pending.program.convention
            self._ended(Outcome(asked.step, convention, None, error, blocked, blocked))
            return False
        return True

    def after(self, job: Callable[[], None]) -> None:
        """Does something short after what is under way; not at all while the writer hangs."""
        if self._is_free(None):
            try:
                self._worker.start(job)
            except RuntimeError:  # the system has no thread left
                job()

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

    def _is_free(self, deadline: float | None) -> bool:
        """Waits for the worker; whether it is idle."""
        if deadline is not None:
            return self._worker.wait(max(0.0, deadline - time.monotonic()))
        self._measured.wait()
        return self._worker.wait(_SECONDS_TO_WRITE)

    def wait_for_compilation(self, timeout: float | int) -> None:
        """Waits until nothing is being compiled, so many seconds at most."""
        if self._program is not None:
            self._program.wait(timeout)

    def _start(self, asked: Asked) -> PendingKernel:
        """Dispatches the kernel, with ever less memory if it runs out."""
        while True:
            program = self.prepare(asked.params, asked.model_state)
            # A new program is checked at once, whatever the number of the measurement.
            check = (self._begins + 1) & self._begins == 0 or program is not self._checked
            try:
                pending = program.start(asked.params, asked.model_state, check=check)
                self._begins, self._checked = self._begins + 1, program
                return pending
            except Exception as error:
                if not self._takes_less(asked.step, program, error):
                    raise

    def _takes_less(self, step: int, program: KernelProgram, error: Exception) -> bool:
        """Whether memory ran out, and the next program takes less of it."""
        structured = program.convention.implementation == "structured"  # others have no budget
        if not out_of_memory(error) or not structured:
            return False
        if not self._memory.halve(program.temporary_bytes):
            return False
        assert self._memory.bytes is not None
        self._failures.of_memory(step, self._memory.bytes, error)
        return True

    def _try_again(self) -> None:
        again, self._again = self._again, None
        if again is None:
            return
        if donated((again.params, again.model_state)):  # since it was found to be worth a try
            self._lost(again.step, DonatedError())
            return
        try:
            self.begin(again)
        except Exception as error:  # a diagnostic never ends a training run
            self._lost(again.step, error)

    def _finish(self, step: int, pending: PendingKernel, rate: Rate | None, blocked: float) -> None:
        """On the worker: from the pending kernel to its outcome."""
        found: Measurement | None = None
        failure: Exception | None = None
        try:
            fetched = pending.fetch()
            self._refuse_wrong(pending.program, fetched)
            found = self._measurer(step, pending.program, fetched, rate)
        except WrongKernelError as error:
            failure = error
            arguments = pending.arguments()
            if arguments is not None:
                self._again = Asked(step, *arguments, rate)
        except Exception as error:
            failure = error
            if self._takes_less(step, pending.program, error):
                arguments = pending.arguments()
                if arguments is None:
                    failure = DonatedError()
                else:
                    self._again, failure = Asked(step, *arguments, rate), None
        finally:
            self._measured.set()
        seconds = pending.seconds if found is None else found.seconds
        convention = pending.program.convention
        self._ended(Outcome(step, convention, found, failure, blocked, seconds))

    def _refuse_wrong(self, program: KernelProgram, fetched: FetchedKernel) -> None:
        """Raises where the certificate does not hold, and a plainer computation may be right.

        Raises:
          WrongKernelError: it does not.
        """
        certificate, implementation = fetched.certificate, program.convention.implementation
        if certificate is None or certificate.holds:
            return
        worst = certificate.wrong[0]
        by, tolerance = certificate.deviations[worst], certificate.tolerances[worst]
        if program.is_coupled or is_coupled(fetched.coupling):
            return  # which has been said: no other way to take examples one by one would help
        if implementation == "jacobian_contraction":
            _log.warning(
                "The kernel differs by %.2g from plain derivatives of f on the whole probe "
                "(tolerance %.2g), although it comes of plain derivatives itself: examples "
                "interact, or f gives other outputs each time.",
                by,
                tolerance,
            )
            return
        self._wrong = program, certificate
        msg = (
            f"v^T Theta v differs by {by:.2g} of it from ||J^T v||^2, from plain derivatives of f "
            f"(tolerance {tolerance:.2g}). The kernel by {implementation!r} is wrong, and is not "
            "logged; it is computed by Jacobian contraction instead. Please report this to "
            "ntk_train"
        )
        raise WrongKernelError(msg)
