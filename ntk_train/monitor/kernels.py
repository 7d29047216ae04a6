"""The kernels of one probe: by which program, in how much memory, and whether they are right.

    start     the loop's thread: the program for these parameters, its dispatch  ->  PendingKernel
    fetch     another thread: waits for it and checks it                         ->  FetchedKernel

Where the device runs out of memory, in compilation or at run time, the kernel is compiled anew with
half of it, until there is nothing to halve: at once where dispatch fails, and with the next `start`
where that shows later, as a program is traced in the loop's thread, whose JAX contexts it needs.

The first kernel, the second, fourth, eighth and so on are compared with plain derivatives. Where
one is wrong, it and all later ones are computed by Jacobian contraction.
"""

import dataclasses
import functools
import logging
import time

import jax
from jax.sharding import AxisType

from ntk_train._types import ApplyFn, PyTree
from ntk_train.errors import WrongKernelError
from ntk_train.kernel.certificate import Certificate
from ntk_train.kernel.on_mesh import Division
from ntk_train.kernel.options import KernelOptions
from ntk_train.monitor.certifier import why_wrong
from ntk_train.monitor.convention import Convention
from ntk_train.monitor.failures import Failures, out_of_memory
from ntk_train.monitor.memory import MemoryBudget
from ntk_train.monitor.program import FetchedKernel, KernelProgram, PendingKernel, signature
from ntk_train.monitor.switches import usual_switches

_log = logging.getLogger(__name__)


class Kernels:
    """Makes the kernels of one probe, one after the other.

    Args:
      f: `f(params, x)` or `f(params, x, model_state)`.
      probe: its inputs.
      options: of the kernel.
      with_logits: whether the outputs are computed beside the kernel.
      check: whether kernels are compared with plain derivatives now and then.
      failures: counts what runs out of memory.
      division: of the probe over devices, None for none.
    """

    def __init__(
        self,
        f: ApplyFn,
        probe: PyTree,
        options: KernelOptions,
        *,
        with_logits: bool,
        check: bool,
        failures: Failures,
        division: Division | None = None,
    ) -> None:
        self._trace = functools.partial(
            KernelProgram, f, probe, with_logits=with_logits, checked=check, division=division
        )
        self._why_wrong = functools.partial(why_wrong, f=f, probe=probe)
        self._options = options
        self._failures = failures
        self._memory = MemoryBudget()
        self._program: KernelProgram | None = None
        self._trace_seconds = 0.0
        self._compile_seconds = 0.0  # of the programs before this one
        self._starts = 0  # kernels that were dispatched
        self._checked: KernelProgram | None = None  # the last program of which one was
        self._wrong: tuple[KernelProgram, Certificate] | None = None  # whose kernel was wrong

    @property
    def convention(self) -> Convention | None:
        """Of the program; None before there is one."""
        return None if self._program is None else self._program.convention

    @property
    def ready(self) -> bool:
        """Whether there is a program for what the next kernel may take, compiled or not."""
        program = self._program
        return program is not None and program.budget == self._memory.bytes and not self._is_wrong

    @property
    def trace_seconds(self) -> float:
        """For which callers have waited so far while programs were traced."""
        return self._trace_seconds

    @property
    def compile_seconds(self) -> float:
        """For which programs have been compiled so far, beside the loop."""
        return self._compile_seconds + (self._program.compile_seconds if self._program else 0.0)

    @usual_switches()
    def prepare(self, params: PyTree, model_state: PyTree) -> KernelProgram:
        """The program for these parameters; traced, and being compiled, if it is not there yet.

        Raises:
          KernelInputError, DtypeError: as `ntk_train.ntk`.
        """
        budget = self._memory.bytes
        if self._program is not None:
            same = self._program.signature == signature((params, model_state))
            if same and self.ready and not self._program.cancelled:
                return self._program
            if not same:
                _log.warning(
                    "Shapes, dtypes or placement of params changed: the kernel is compiled anew."
                )
        start = time.perf_counter()
        try:
            if self._is_wrong:
                self._replace(params, model_state)
            options = dataclasses.replace(self._options, memory_budget=budget)
            program = self._traced(options, params, model_state)
        finally:
            self._trace_seconds += time.perf_counter() - start
        self._compile_seconds, self._program = self.compile_seconds, program
        return program

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

    def start(self, step: int, params: PyTree, model_state: PyTree) -> PendingKernel:
        """Dispatches a kernel, with ever less memory if it runs out.

        Args:
          step: of the loop, for messages.
          params: may be donated then.
          model_state: likewise.

        Raises:
          KernelInputError, DtypeError: as `ntk_train.ntk`.
          JaxRuntimeError: it could not be compiled or dispatched.
        """
        while True:
            program = self.prepare(params, model_state)
            # A new program is checked at once, whatever the number of the measurement.
            check = (self._starts + 1) & self._starts == 0 or program is not self._checked
            try:
                pending = program.start(params, model_state, check=check)
                self._starts, self._checked = self._starts + 1, program
                return pending
            except Exception as error:
                if not self.takes_less(step, program, error):
                    raise

    def fetch(self, pending: PendingKernel) -> FetchedKernel:
        """Waits for a kernel, and copies it to the host.

        Raises:
          JaxRuntimeError: the device ran out of memory, or failed.
          WrongKernelError: it is wrong; the next kernel is computed in another way.
        """
        fetched = pending.fetch()
        self._refuse_wrong(pending.program, fetched)
        if fetched.is_coupled:
            _log.warning(
                "The outputs of a probe input change by %.2g relative to the largest when it is "
                "computed alone: examples interact (BatchNorm in train mode?), or draw other "
                "random numbers in another batch (dropout in train mode?), but batched=True takes "
                "them one by one. Switch f to eval mode, or give the hook batched=False.",
                fetched.coupling,
            )
        return fetched

    def wait(self, timeout: float | int) -> None:
        """Waits until nothing is being compiled, so many seconds at most."""
        if self._program is not None:
            self._program.wait(timeout)

    def takes_less(self, step: int, program: KernelProgram, error: Exception) -> bool:
        """Whether memory ran out, and the next program takes less of it."""
        structured = program.convention.implementation == "structured"  # others have no budget
        if not out_of_memory(error) or not structured:
            return False
        if not self._memory.halve(program.temporary_bytes):
            return False
        assert self._memory.bytes is not None
        self._failures.of_memory(step, self._memory.bytes, error)
        return True

    def _refuse_wrong(self, program: KernelProgram, fetched: FetchedKernel) -> None:
        """Raises where the certificate does not hold, and a plainer computation may be right.

        Raises:
          WrongKernelError: it does not.
        """
        certificate, implementation = fetched.certificate, program.convention.implementation
        if certificate is None or certificate.holds:
            return
        by, tolerance = certificate.worst
        if program.is_coupled or fetched.is_coupled:
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
