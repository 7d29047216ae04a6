r"""The largest learning rate at which gradient descent is stable, from the tangent kernel.

A loss L(f) of the outputs f of N examples has, in the parameters, the Gauss-Newton Hessian
G = J^T H J, with H the Hessian of L in the outputs. With H = B B^T, G has the nonzero eigenvalues
of B^T Theta B. Gradient descent on the linearised network is stable below

    eta_crit = 2 / lambda_max(G),    heavy ball: 2 (1 + beta) / lambda_max(G),
    Nesterov: (2 + 2 beta) / ((1 + 2 beta) lambda_max(G))

(J. Cohen, S. Kaur, Y. Li, J. Z. Kolter, A. Talwalkar, *Gradient Descent on Neural Networks
Typically Occurs at the Edge of Stability*, ICLR 2021, section 2 and appendix B; for the kernel J.
Lee et al., *Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent*,
NeurIPS 2019.) What H is depends on the loss and on what it is divided by:

======================  ==================================================================
squared loss            H = h I, h = (1 if half else 2) / (1, N or N O)
cross-entropy           H = S / (1 or N), S = diag(p) - p p^T for each example, p = softmax(f);
                        of one logit S = p (1 - p), p = sigmoid(f)
======================  ==================================================================

S is factored as B B^T with B = diag(sqrt p) - p sqrt(p)^T, which needs no decomposition. A network
of one logit is trained on the binary cross-entropy of its sigmoid: the softmax of one number is 1
whatever it is, and that loss would have no curvature at all. The kernel
has to be the full one, of the examples whose loss is meant: lambda_max of a trace or of a sum of
outputs says nothing about G.

>>> import numpy as np
>>> critical_learning_rate(np.diag([4.0, 1.0]).reshape(2, 1, 2, 1), SquaredLoss(mean="examples"))
1.0
"""

import dataclasses
import math
from typing import Any

import numpy as np

from ntk_train._arguments import check_type, numeric_array, real_array, real_number, yes_or_no
from ntk_train.errors import KernelInputError
from ntk_train.spectrum.eigen import checked_matrix


@dataclasses.dataclass(frozen=True)
class SquaredLoss:
    """sum (f - y)^2, halved or not, divided or not.

    Attributes:
      half: whether there is a factor 1/2.
      mean: "none" for the sum, "examples" for the sum over N, "entries" for the sum over N O.
    """

    half: bool = True
    mean: str = "entries"

    def __post_init__(self) -> None:
        """Refuses other means, and a `half` that is no bool."""
        yes_or_no("half", self.half, "True for a factor 1/2, or False")
        if self.mean not in ("none", "examples", "entries"):
            msg = f"mean={self.mean!r} is none of 'none', 'examples', 'entries'."
            raise KernelInputError(msg)

    def curvature(self, n: int, o: int) -> float:
        """The factor h in H = h I, for N examples with O outputs."""
        divisor = {"none": 1, "examples": n, "entries": n * o}[self.mean]
        return (1.0 if self.half else 2.0) / divisor


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """-log softmax(f)[label], summed over examples or averaged.

    Of a network of one logit, with labels 0 and 1, it is -log sigmoid(f) or -log sigmoid(-f).

    Attributes:
      mean: "examples" for the mean over N, "none" for the sum.
    """

    mean: str = "examples"

    def __post_init__(self) -> None:
        """Refuses other means."""
        if self.mean not in ("none", "examples"):
            msg = f"mean={self.mean!r} is none of 'none', 'examples'."
            raise KernelInputError(msg)


def hessian_weighted_kernel(kernel: Any, logits: Any) -> np.ndarray:
    """B^T Theta B of the summed cross-entropy, which has the eigenvalues of S^(1/2) Theta S^(1/2).

    Args:
      kernel: [N, O, N, O], full.
      logits: [N, O], of the same examples; -inf for a class that is masked, whose probability is 0.

    Returns:
      [N O, N O] float64, symmetric. With two logits and more at least N of its eigenvalues are 0:
      adding a number to all logits of an example changes no probability.

    Raises:
      KernelInputError, DtypeError: the shapes do not fit, or logits are no finite real numbers.
      NonFiniteKernelError: as `kernel_spectrum`.
    """
    kernel = _full(kernel)
    n, o = kernel.shape[:2]
    expected = f"finite numbers [N, O] = [{n}, {o}], the outputs on the kernel's examples"
    logits = numeric_array("logits", logits, expected)
    is_masked = logits == -np.inf
    logits = real_array("logits", np.where(is_masked, 0, logits), expected)
    logits = np.where(is_masked, -np.inf, logits)
    if logits.shape != (n, o):
        hint = "; a kernel [N, N] counts as one of one logit" if o == 1 else ""
        msg = f"logits has shape {logits.shape}; expected {expected}{hint}."
        raise KernelInputError(msg)
    if np.any(np.all(is_masked, axis=1)) and o > 0:
        msg = "logits masks all classes of an example by -inf; expected a finite one in each row."
        raise KernelInputError(msg)
    b = _root_of_curvature(logits)  # [n, o, q]
    weighted = np.einsum("noq,nomp,mpr->nqmr", b, kernel, b, optimize=True).reshape(n * o, n * o)
    return (weighted + weighted.T) / 2


def _root_of_curvature(logits: np.ndarray) -> np.ndarray:
    """B [N, O, O] of logits [N, O], with B B^T the Hessian of the cross-entropy of each example."""
    o = logits.shape[1]
    if o == 1:
        # sqrt(p (1 - p)) without the cancellation in 1 - p.
        return np.exp(-np.logaddexp(0, logits) / 2 - np.logaddexp(0, -logits) / 2)[:, :, None]
    top = np.max(logits, axis=1, initial=-np.inf)
    p = np.exp(logits - top[:, None])
    p /= p.sum(axis=1, keepdims=True)
    root = np.sqrt(p)
    return root[:, :, None] * np.eye(o) - p[:, :, None] * root[:, None, :]


def check_loss(loss: Any) -> None:
    """Refuses what is neither loss, such as its name or a function.

    Raises:
      KernelInputError: it is neither.
    """
    expected = "ntk_train.CrossEntropy() or ntk_train.SquaredLoss(), with what it is divided by"
    check_type("loss", loss, (SquaredLoss, CrossEntropy), expected)


def sharpness(kernel: Any, loss: SquaredLoss | CrossEntropy, logits: Any = None) -> float:
    """The largest eigenvalue of the Gauss-Newton Hessian of the loss, in float64.

    Args:
      kernel: [N, O, N, O], or [N, N] of a network with one output.
      loss: with what it is divided by.
      logits: [N, O], for the cross-entropy.

    Raises:
      KernelInputError: the shapes do not fit, the cross-entropy comes without logits, or the loss
        is none.
    """
    check_loss(loss)
    kernel = _full(kernel)
    n, o = kernel.shape[:2]
    if isinstance(loss, SquaredLoss):
        return loss.curvature(n, o) * float(np.linalg.eigvalsh(kernel.reshape(n * o, -1))[-1])
    if logits is None:
        msg = "logits is missing: the Hessian of the cross-entropy depends on them. Pass [N, O]."
        raise KernelInputError(msg)
    top = float(np.linalg.eigvalsh(hessian_weighted_kernel(kernel, logits))[-1])
    return top / (n if loss.mean == "examples" else 1)


def stable_rate(
    sharpness: float | int, momentum: float | int = 0.0, *, nesterov: bool = False
) -> float:
    """The critical learning rate of a Hessian's largest eigenvalue; infinite for 0 and below."""
    momentum = checked_momentum(momentum)
    yes_or_no("nesterov", nesterov)
    if np.ndim(sharpness) == 0 and sharpness != sharpness:
        return math.nan
    sharpness = real_number("sharpness", sharpness, "an eigenvalue", or_infinite=True)
    gain = 2 * (1 + momentum) / (1 + 2 * momentum if nesterov else 1)
    return gain / sharpness if sharpness > 0 else math.inf


def checked_momentum(momentum: Any) -> float:
    """The beta of SGD.

    Raises:
      KernelInputError: it is no number from 0 to below 1.
    """
    return real_number("momentum", momentum, "0 <= momentum < 1, 0 for none", least=0, below=1)


def critical_learning_rate(
    kernel: Any,
    loss: SquaredLoss | CrossEntropy,
    *,
    logits: Any = None,
    momentum: float | int = 0.0,
    nesterov: bool = False,
) -> float:
    """Above this rate gradient descent on the linearised loss diverges, below it converges.

    The real network's loss need not diverge above: there, training moves to where the kernel is
    smaller (A. Lewkowycz et al., *The large learning rate phase of deep learning*, 2020).

    Args:
      kernel: [N, O, N, O] of the examples that the loss is taken over, or [N, N] of one output.
      loss: `SquaredLoss` or `CrossEntropy`, with what it is divided by.
      logits: [N, O], for the cross-entropy.
      momentum: beta of SGD in the form v <- beta v + g, theta <- theta - eta v; a form with
        (1 - beta) g has a critical rate that is larger by 1 / (1 - beta).
      nesterov: whether the momentum is Nesterov's.

    Raises:
      KernelInputError: an argument does not fit; the text says which.
    """
    return stable_rate(sharpness(kernel, loss, logits), momentum, nesterov=nesterov)


def _full(kernel: Any) -> np.ndarray:
    """The kernel as [N, O, N, O], symmetric, float64."""
    shape = np.shape(kernel)
    matrix = checked_matrix(kernel)
    n, o = shape[:2] if len(shape) == 4 else (len(matrix), 1)
    return matrix.reshape(n, o, n, o)
