"""From one kernel after another to numbers: each is compared with the labels and those before it.

FetchedKernel, step, learning rate  ->  Measurement, and the references of the next
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from ntk_train.errors import ConventionError
from ntk_train.kernel.certificate import Certificate
from ntk_train.monitor.blas import one_blas_thread
from ntk_train.monitor.program import FetchedKernel
from ntk_train.spectrum import (
    Convention,
    CrossEntropy,
    Diagnostics,
    ReferenceKernels,
    Spectrum,
    Training,
    check_comparable,
    diagnose,
)
from ntk_train.spectrum.alignment import as_targets
from ntk_train.spectrum.losses import check_softmaxes

_log = logging.getLogger(__name__)

Rate: TypeAlias = float | int | np.generic | np.ndarray | jax.Array | Callable[[int], Any]
"""A learning rate, or a schedule: a function from the number of updates to it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """What the hook found at one step.

    Attributes:
      step: the step of the loop.
      kernel: the kernel on the host, [N, N] or [N, O, N, O].
      diagnostics: its spectrum, its alignment with the labels, its change since the first one.
      seconds: wall-clock time of the kernel and its diagnostics, without compilation and without
        the training steps that were still under way.
      kernel_seconds: of these, until the kernel was on the host.
      check_seconds: beside them, of its comparison with plain derivatives.
      labels: with which it was compared; None where there are none that fit it.
      certificate: of the kernel; None where it was not compared with plain derivatives.
    """

    step: int
    kernel: np.ndarray
    diagnostics: Diagnostics
    seconds: float
    kernel_seconds: float
    check_seconds: float = 0.0
    labels: np.ndarray | None = None
    certificate: Certificate | None = None

    @property
    def spectrum(self) -> Spectrum:
        """The kernel's eigenvalues and what follows from them."""
        return self.diagnostics.spectrum

    @property
    def layers(self) -> dict[str, dict[str, float]]:
        """The numbers of each layer by its name; empty without `per_layer`."""
        return {name: numbers.scalars() for name, numbers in self.diagnostics.layers.items()}


class Measurer:
    """Makes the measurements of one probe, in the order of the steps.

    What does not fit, as labels of other classes, costs its own numbers, and is said once.

    Attributes:
      references: the first kernel and the previous one; None before the first. A kernel that is not
        finite does not become one.

    Args:
      labels: of the probe, or None.
      training: how the run trains, or None.
      references: of the run that this one continues.
      top_k: as of `diagnose`.
    """

    def __init__(
        self,
        labels: Any,
        training: Training | None,
        references: ReferenceKernels | None,
        top_k: int | None = None,
    ) -> None:
        self._labels = labels
        self._top_k = top_k
        self._training = training
        self._told: set[str] = set()
        self.references = references

    def __call__(self, step: int, fetched: FetchedKernel, rate: Rate | None) -> Measurement:
        """The numbers of a kernel, which becomes the previous one.

        Args:
          step: of the kernel.
          fetched: it, and what was computed beside it.
          rate: the learning rate at this step, or None for that of `training`.

        Raises:
          NonFiniteKernelError: the kernel has NaN or infinite entries.
        """
        start = time.perf_counter()
        references = self._comparable(step, fetched.kernel, fetched.convention)
        left_out: list[str] = []

        def leave_out(argument: str, error: Exception) -> None:
            left_out.append(argument)
            self._leave_out(step, argument, error)

        training = self._training_at(step, rate, leave_out)
        with one_blas_thread() as waited:
            found = diagnose(
                fetched.kernel,
                fetched.convention,
                eps=fetched.eps,
                labels=self._labels,
                logits=fetched.logits,
                training=training,
                layers=fetched.layers,
                # A kernel of zeros has no direction that could have changed.
                references=references if np.any(fetched.kernel) else None,
                step=step,
                top_k=self._top_k,
                lost=leave_out,
            )
        self._tell_of_rates(found)
        if found.spectrum.lambda_max == 0:
            _log.warning("The kernel at step %d is zero: outputs do not depend on params.", step)
        if references is None:
            self.references = ReferenceKernels.start(fetched.kernel, step, fetched.convention)
        else:
            self.references = references.advance(fetched.kernel, step, fetched.convention)
        seconds = fetched.seconds + time.perf_counter() - start - waited
        labels = None if "labels" in left_out else self._labels
        return Measurement(
            step=step,
            kernel=fetched.kernel,
            diagnostics=found,
            seconds=seconds,
            kernel_seconds=fetched.seconds,
            check_seconds=fetched.check_seconds,
            labels=labels,
            certificate=fetched.certificate,
        )

    def check(self, convention: Convention, output_shapes: Sequence[tuple[int, ...]]) -> None:
        """Refuses labels that do not fit the kernel, and a loss that does not fit the outputs.

        Args:
          convention: of the kernel.
          output_shapes: of each array that f returns.

        Raises:
          KernelInputError: they do not; the text says why.
        """
        if self._training is not None and isinstance(self._training.loss, CrossEntropy):
            check_softmaxes(self._training.loss, output_shapes)
        if self._labels is not None:
            outputs = convention.num_outputs if convention.outputs == "full" else None
            as_targets(self._labels, convention.num_examples, outputs)

    def _comparable(
        self, step: int, kernel: np.ndarray, convention: Convention
    ) -> ReferenceKernels | None:
        """The references, unless they are of another convention."""
        if self.references is None or _compare(self.references, kernel, convention):
            return self.references
        _log.warning(
            "The kernel's convention is another one than before: its change is counted anew "
            "from step %d.",
            step,
        )
        return None

    def _tell_of_rates(self, found: Diagnostics) -> None:
        if (
            self._training
            and "critical_learning_rate" not in found.values
            and "training" not in self._told
        ):
            _log.info("No critical learning rate: it follows from outputs='full' alone.")
            self._told.add("training")

    def _leave_out(self, step: int, argument: str, error: Exception) -> None:
        if argument not in self._told:
            self._told.add(argument)
            _log.warning(
                "No numbers of %s from step %d on, while that is so; all others are measured. "
                "%s: %s",
                argument,
                step,
                type(error).__name__,
                error,
            )

    def _training_at(
        self, step: int, rate: Rate | None, leave_out: Callable[[str, Exception], None]
    ) -> Training | None:
        if self._training is None or rate is None:
            return self._training
        try:
            number = float(np.asarray(rate(step) if callable(rate) else rate))
        except Exception as error:  # a schedule is not ours, and the spectrum needs no rate
            leave_out("learning_rate", error)
            return dataclasses.replace(self._training, learning_rate=None)
        return dataclasses.replace(self._training, learning_rate=number)


def _compare(references: ReferenceKernels, kernel: np.ndarray, convention: Convention) -> bool:
    """Whether a kernel can be compared with earlier ones."""
    try:
        check_comparable(references.convention, convention)
    except ConventionError:
        return False
    return references.initial.shape == kernel.shape
