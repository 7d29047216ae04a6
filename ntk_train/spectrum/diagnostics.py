"""All that is known of one kernel, with the convention that says what it means.

    kernel, labels, logits, loss, layers, references  ->  Diagnostics  ->  {name: float}

`quantities.py` says what each is. Names are without the hook's prefix: `lambda_max`,
`kernel_target_alignment`; the numbers of a layer are in a record of its own.

>>> import numpy as np
>>> found = diagnose(np.diag([2.0, 1.0]), labels=np.array([0, 1]))
>>> found.scalars()["condition_number"]
2.0
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from ntk_train._arguments import check_type, real_number, whole_number, yes_or_no
from ntk_train.errors import KernelInputError
from ntk_train.spectrum.alignment import (
    debiased_kernel_target_alignment,
    kernel_target_alignment,
    top_space_alignment,
)
from ntk_train.spectrum.convention import Convention, check_comparable, check_convention
from ntk_train.spectrum.decay import entropy_rank, power_law
from ntk_train.spectrum.eigen import Spectrum, checked_matrix, kernel_spectrum
from ntk_train.spectrum.layers import LayerDiagnostics, layer_diagnostics
from ntk_train.spectrum.learning_rate import (
    checked_momentum,
    critical_learning_rate,
    guaranteed_learning_rate,
)
from ntk_train.spectrum.losses import CrossEntropy, SquaredLoss, check_loss
from ntk_train.spectrum.minibatch import checked_batch_size, minibatch_critical_learning_rate
from ntk_train.spectrum.reference import ReferenceKernels

_Numbers = TypeVar("_Numbers", float, LayerDiagnostics)


@dataclasses.dataclass(frozen=True)
class Training:
    """How the run trains, for the critical learning rates.

    Attributes:
      loss: with what it is divided by.
      learning_rate: of this step; None leaves out the ratios to the critical ones.
      momentum: beta of SGD, as in `critical_learning_rate`.
      nesterov: whether it is Nesterov's.
      batch_size: examples of a training step; None leaves out the rate of SGD on minibatches.

    Raises:
      KernelInputError: one of them is not of its kind, or out of range.
    """

    loss: SquaredLoss | CrossEntropy
    learning_rate: float | int | None = None
    momentum: float | int = 0.0
    nesterov: bool = False
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Refuses a loss by its name, a schedule in place of a rate, numbers out of range."""
        check_loss(self.loss)
        checked_momentum(self.momentum)
        yes_or_no("nesterov", self.nesterov)
        if self.batch_size is not None:
            checked_batch_size(self.batch_size)
        if self.learning_rate is not None:
            expected = "the rate of this step, 0 or more, as schedule(step), or None"
            real_number("learning_rate", self.learning_rate, expected, least=0)


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnostics:
    """The numbers of one kernel; `diagnose` makes it.

    Attributes:
      spectrum: its eigenvalues.
      values: all other numbers of the whole kernel by name.
      convention: what they mean; None where it was not stated.
      layers: the numbers of each layer by its name; empty where there were no layers.
    """

    spectrum: Spectrum
    values: Mapping[str, float]
    convention: Convention | None = None
    layers: Mapping[str, LayerDiagnostics] = dataclasses.field(default_factory=dict)

    def of_kernel(self) -> dict[str, float]:
        """The numbers of the whole kernel by name."""
        return {**self.spectrum.scalars(), **self.values}

    def scalars(self) -> dict[str, float]:
        """All numbers by name, those of a layer as `layer/Dense_0/trace_share`."""
        return self.of_kernel() | {
            f"layer/{layer}/{name}": value
            for layer, numbers in self.layers.items()
            for name, value in numbers.scalars().items()
        }

    def describe(self) -> str:
        """The convention and the numbers, as tables in Markdown."""
        stated = "No convention is stated: these numbers compare with no others."
        if self.convention is not None:
            stated = self.convention.describe()
        rows = [f"| {name} | {value:.6g} |" for name, value in self.scalars().items()]
        return "\n".join([stated, "", "| diagnostic | value |", "|---|---|", *rows])

    def compare(
        self, other: "Diagnostics", *, same_network: bool = True
    ) -> dict[str, tuple[float, float]]:
        """Pairs (this, other) of the numbers that both have.

        Args:
          other: diagnostics of another kernel.
          same_network: False for kernels of different networks, which need to agree only in what
            is not the network: outputs, examples, N, O, dtype and precision.

        Raises:
          ConventionError: the conventions differ; the text names both.
        """
        check_comparable(self.convention, other.convention, same_network=same_network)
        mine, theirs = self.scalars(), other.scalars()
        return {name: (mine[name], theirs[name]) for name in mine if name in theirs}


def diagnose(
    kernel: Any,
    convention: Convention | None = None,
    *,
    eps: float | None = None,
    labels: Any = None,
    logits: Any = None,
    training: Training | None = None,
    layers: Mapping[str, Any] | None = None,
    references: ReferenceKernels | None = None,
    step: int | None = None,
    top_k: int | None = None,
    fit_first: int = 1,
    lost: Callable[[str, Exception], None] | None = None,
) -> Diagnostics:
    """Computes what the arguments allow of one kernel, on the host in float64.

    Args:
      kernel: [N, N] or [N, O, N, O].
      convention: in which it was computed.
      eps: as in `kernel_spectrum`.
      labels: as in `kernel_target_alignment`; without them there are no alignments.
      logits: outputs at the same parameters, for the cross-entropy's critical rates: [N, O], or as
        f returns them, as in `critical_learning_rate`.
      training: without it there is no critical learning rate. There is none either for a traced,
        summed or chosen kernel of several outputs, from which it does not follow: a kernel
        [N, N] counts as full only if its convention says that there is one output.
      layers: the parts of the kernel, as `ntk(..., per_layer=True)` returns them; they must add up
        to it.
      references: earlier kernels; without them nothing is said of a change.
      step: of this kernel; needed with references.
      top_k: how many eigenvectors are the top space, for alignment and rotation; by default O for
        a full kernel, and 1 for [N, N].
      fit_first: the first rank in the power-law fit.
      lost: called with the name of an argument from which no number could be computed, and why;
        its numbers are left out then, and the spectrum and all others are there. None raises.

    Raises:
      KernelInputError: an argument does not fit the kernel; the text says which.
      DtypeError, NonFiniteKernelError: as `kernel_spectrum`.
      ConventionError: the references are of another convention.
    """
    check_convention(convention)
    spectrum = kernel_spectrum(kernel, eps=eps)
    kernel = np.asarray(kernel)
    if top_k is not None:
        top_k = whole_number("top_k", top_k, "how many eigenvectors, 1 or more, or None")
        top_k = min(top_k, len(spectrum.eigenvalues))
    fit_first = whole_number("fit_first", fit_first, "the first rank of the fit, 1 or more")
    values = {"entropy_rank": entropy_rank(spectrum), **power_law(spectrum, fit_first).scalars()}
    if training is not None:
        expected = "Training(loss, ...), as Training(CrossEntropy(), momentum=0.9), or None"
        check_type("training", training, Training, expected)

    def of(argument: str, numbers: Callable[[], Mapping[str, _Numbers]]) -> Mapping[str, _Numbers]:
        try:
            return numbers()
        except Exception as error:
            if lost is None:
                raise
            lost(argument, error)
            return {}

    if labels is not None:
        alignments = of("labels", lambda: _alignments(kernel, labels, top_k))
        values |= alignments
        labels = labels if alignments else None
    if training is not None and _is_full(kernel, convention):
        values |= of("training", lambda: _rates(kernel, training, logits))
    if references is not None:
        check_type("references", references, ReferenceKernels, "ReferenceKernels or None")
        if step is None:
            msg = "step is None; with references the step of the kernel is needed."
            raise KernelInputError(msg)
        values |= of(
            "references", lambda: references.scalars(kernel, step, convention, top_k=top_k)
        )
    by_layer: Mapping[str, LayerDiagnostics] = {}
    if layers is not None:
        by_layer = of("layers", lambda: _of_layers(kernel, layers, labels))
    return Diagnostics(spectrum, MappingProxyType(values), convention, by_layer)


def _alignments(kernel: np.ndarray, labels: Any, top_k: int | None) -> dict[str, float]:
    return {
        "kernel_target_alignment": kernel_target_alignment(kernel, labels),
        "centred_kernel_target_alignment": kernel_target_alignment(kernel, labels, centred=True),
        "debiased_kernel_target_alignment": debiased_kernel_target_alignment(kernel, labels),
        "top_space_alignment": top_space_alignment(kernel, labels, top_k),
    }


def _of_layers(
    kernel: np.ndarray, layers: Mapping[str, Any], labels: Any
) -> dict[str, LayerDiagnostics]:
    found = layer_diagnostics(layers, labels)
    shape = np.shape(next(iter(layers.values())))
    if shape != kernel.shape:
        msg = (
            f"layers has kernels of shape {shape}; expected that of the kernel, {kernel.shape}: "
            "compute both with the same outputs and inputs."
        )
        raise KernelInputError(msg)
    whole = checked_matrix(kernel)
    left = whole - sum(checked_matrix(layer) for layer in layers.values())
    change = float(np.max(np.abs(left)))
    # Parts that are computed with products of few bits are off by some of these.
    if change > _TOLERANCE * np.max(np.abs(whole)):
        msg = (
            f"layers does not add up to the kernel: entries differ by up to {change:.3g}, of "
            f"{np.max(np.abs(whole)):.3g} in all. Pass all that "
            "ntk_train.ntk(..., per_layer=True) returns at the same params, and its sum as the "
            "kernel."
        )
        raise KernelInputError(msg)
    return found


_TOLERANCE = 0.01  # of the largest entry


def _is_full(kernel: np.ndarray, convention: Convention | None) -> bool:
    return kernel.ndim == 4 or (convention is not None and convention.num_outputs == 1)


def _rates(kernel: np.ndarray, training: Training, logits: Any) -> dict[str, float]:
    if isinstance(training.loss, CrossEntropy) and logits is None:
        msg = "logits is None; the critical learning rate of the cross-entropy needs them."
        raise KernelInputError(msg)
    how: dict[str, Any] = {"momentum": training.momentum, "nesterov": training.nesterov}
    critical = critical_learning_rate(kernel, training.loss, logits=logits, **how)
    rates, ratios = {"critical_learning_rate": critical}, {"full_batch": critical}
    if isinstance(training.loss, CrossEntropy):  # that of the squared loss is the same everywhere
        rates["guaranteed_learning_rate"] = guaranteed_learning_rate(kernel, training.loss, **how)
    if training.batch_size is not None:
        ratios["minibatch"] = rates["minibatch_critical_learning_rate"] = (
            minibatch_critical_learning_rate(
                kernel, training.loss, training.batch_size, logits=logits, **how
            )
        )
    if training.learning_rate is not None:
        rate = float(training.learning_rate)
        rates |= {f"{of}_learning_rate_ratio": rate / edge for of, edge in ratios.items()}
    return rates
