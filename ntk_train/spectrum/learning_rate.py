r"""The learning rates at which gradient descent is stable, from the tangent kernel.

A loss L(f) of the outputs f of N examples has, in the parameters, the Gauss-Newton Hessian
G = J^T H J, with H the Hessian of L in the outputs. With H = B B^T, G has the nonzero eigenvalues
of B^T Theta B. Descent on the whole batch is stable, where the loss is the quadratic with this
Hessian, below

    eta_crit = 2 / lambda_max(G),    heavy ball: 2 (1 + beta) / lambda_max(G),
    Nesterov: (2 + 2 beta) / ((1 + 2 beta) lambda_max(G))

(J. Cohen, S. Kaur, Y. Li, J. Z. Kolter, A. Talwalkar, *Gradient Descent on Neural Networks
Typically Occurs at the Edge of Stability*, ICLR 2021, section 2 and appendix B; for the kernel J.
Lee et al., *Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent*,
NeurIPS 2019.) What H is depends on the loss and on what it is divided by:

======================  ==================================================================
squared loss            H = h I, h = (1 if half else 2) / (1, N or N O)
cross-entropy           H = S / (1, N or N T), S = diag(p) - p p^T for each of the T softmaxes of
                        an example, p = softmax(f); of one logit S = p (1 - p), p = sigmoid(f)
======================  ==================================================================

S is factored as B B^T with B = diag(sqrt p) - p sqrt(p)^T, which needs no decomposition. A network
of one logit is trained on the binary cross-entropy of its sigmoid: the softmax of one number is 1
whatever it is, and that loss would have no curvature at all. The kernel
has to be the full one, of the examples whose loss is meant: lambda_max of a trace or of a sum of
outputs says nothing about G.

The linearised network has the same Hessian everywhere under the squared loss, and not under the
cross-entropy: above eta_crit descent leaves the logits that it is at, in a spike, and may well
converge where the Hessian is smaller; below it, from logits that are wrong with certainty, whose
Hessian is nearly 0, it may jump far. For all logits of V classes S <= I / 2, and even
S <= (I - 1 1^T / V) / 2, as S 1 = 0 (D. Bohning, *Multinomial logistic regression algorithm*, Ann.
Inst. Stat. Math. 44, 1992); for a sigmoid S <= 1/4. With L the lambda_max of B^T Theta B of that
bound, descent on the linearised network never raises, of its loss l and its velocity v,

    plain, eta <= 2 / L:                    l(theta)
    heavy ball, eta <= 2 (1 - beta) / L:    l(theta) + beta eta ||v||^2 / 2
    Nesterov, eta <= 1 / L:                 l(theta + eta beta v) + eta ||v||^2 / 2

(plain: Y. Nesterov, *Lectures on Convex Optimization*, section 2.1.5; heavy ball: S. Zavriev, F.
Kostyuk, *Heavy-ball method in nonconvex optimization problems*, 1993; E. Ghadimi, H. Feyzmahdavian,
M. Johansson, *Global convergence of the Heavy-ball method for convex optimization*, ECC 2015;
Nesterov's follows in three lines from l convex with a gradient that is L-Lipschitz).

>>> import numpy as np
>>> critical_learning_rate(np.diag([4.0, 1.0]).reshape(2, 1, 2, 1), SquaredLoss(mean="examples"))
1.0
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ntk_train._arguments import numeric_array, real_array, real_number, yes_or_no
from ntk_train.errors import KernelInputError
from ntk_train.spectrum.eigen import checked_matrix
from ntk_train.spectrum.losses import CrossEntropy as CrossEntropy
from ntk_train.spectrum.losses import SquaredLoss as SquaredLoss
from ntk_train.spectrum.losses import check_loss, check_softmaxes


def hessian_weighted_kernel(
    kernel: Any, logits: Any, loss: CrossEntropy | None = None
) -> np.ndarray:
    """B^T Theta B of the summed cross-entropy, which has the eigenvalues of S^(1/2) Theta S^(1/2).

    Args:
      kernel: [N, O, N, O], full.
      logits: [N, O] or [N, ..., V], of the same examples; or a tuple or dict of such arrays, one
        for each head. -inf for a class that is masked, whose probability is 0.
      loss: with the classes of each softmax, by default all O; what it is divided by is left out.

    Returns:
      [N O, N O] float64, symmetric. With two logits and more at least one eigenvalue is 0 for each
      softmax: adding a number to all its logits changes no probability.

    Raises:
      KernelInputError, DtypeError: the shapes do not fit, or logits are no finite real numbers.
      NonFiniteKernelError: as `kernel_spectrum`.
    """
    kernel, loss = _full(kernel), CrossEntropy() if loss is None else loss
    n, o = kernel.shape[:2]
    return _weighted(kernel, _root_of_curvature(_flat(logits, loss, n, o), loss.softmaxes(o)))


def _weighted(kernel: np.ndarray, root: np.ndarray) -> np.ndarray:
    """B^T Theta B as a matrix, of B [N, O, O]."""
    rows = kernel.shape[0] * kernel.shape[1]
    weighted = np.einsum("noq,nomp,mpr->nqmr", root, kernel, root, optimize=True)
    weighted = weighted.reshape(rows, rows)
    return (weighted + weighted.T) / 2


def _flat(logits: Any, loss: CrossEntropy, n: int, o: int) -> np.ndarray:
    """Logits as float64 [N, O], in the order of the kernel's outputs."""
    expected = f"finite numbers [N, O] = [{n}, {o}], the outputs on the kernel's examples"
    leaves = jax.tree.leaves(logits) if isinstance(logits, (tuple, dict)) else [logits]
    leaves = [numeric_array("logits", leaf, expected) for leaf in leaves]
    fits = all(leaf.ndim and len(leaf) == n for leaf in leaves)
    if not fits or sum(math.prod(leaf.shape[1:]) for leaf in leaves) != o:
        shapes = " and ".join(str(leaf.shape) for leaf in leaves)
        hint = "; a kernel [N, N] counts as one of one logit" if o == 1 else ""
        msg = f"logits has shape {shapes}; expected {expected}{hint}."
        raise KernelInputError(msg)
    check_softmaxes(loss, [leaf.shape for leaf in leaves])
    rows = [_finite_or_masked(leaf, expected).reshape(n, -1) for leaf in leaves]
    return np.concatenate(rows, axis=1)


def _finite_or_masked(logits: np.ndarray, expected: str) -> np.ndarray:
    """Logits as float64, with -inf where it was."""
    is_masked = logits == -np.inf
    finite = real_array("logits", np.where(is_masked, 0, logits), expected)
    return np.where(is_masked, -np.inf, finite)


def _root_of_curvature(logits: np.ndarray, softmaxes: Sequence[int]) -> np.ndarray:
    """B [N, O, O] of logits [N, O], with B B^T the Hessian of the cross-entropy of each example."""
    root = np.zeros((*logits.shape, logits.shape[1]))
    for of_one in _slices(softmaxes):
        root[:, of_one, of_one] = _root_of_a_softmax(logits[:, of_one])
    return root


def _slices(softmaxes: Sequence[int]) -> Iterator[slice]:
    """The outputs of each softmax."""
    ends = itertools.accumulate(softmaxes)
    return (slice(end - size, end) for end, size in zip(ends, softmaxes, strict=True))


def _root_of_a_softmax(logits: np.ndarray) -> np.ndarray:
    """B [N, V, V] of the logits [N, V] of one softmax."""
    v = logits.shape[1]
    if v and np.any(np.all(logits == -np.inf, axis=1)):
        msg = "logits masks all classes of an example by -inf; expected a finite one in each row."
        raise KernelInputError(msg)
    if v == 1:
        # sqrt(p (1 - p)) without the cancellation in 1 - p.
        return np.exp(-np.logaddexp(0, logits) / 2 - np.logaddexp(0, -logits) / 2)[:, :, None]
    top = np.max(logits, axis=1, initial=-np.inf)
    p = np.exp(logits - top[:, None])
    p /= p.sum(axis=1, keepdims=True)
    root = np.sqrt(p)
    return root[:, :, None] * np.eye(v) - p[:, :, None] * root[:, None, :]


def _root_of_the_bound(o: int, softmaxes: Sequence[int]) -> np.ndarray:
    """B [O, O] of the bound on the Hessian of the cross-entropy that holds for all logits."""
    root = np.zeros((o, o))
    for of_one, v in zip(_slices(softmaxes), softmaxes, strict=True):
        root[of_one, of_one] = 0.5 if v == 1 else (np.eye(v) - 1 / v) / np.sqrt(2)
    return root


def curvature_kernel(kernel: Any, loss: SquaredLoss | CrossEntropy, logits: Any) -> np.ndarray:
    """B^T Theta B [N, O, N, O], float64, with the nonzero eigenvalues of the loss's G.

    Args:
      kernel: as in `sharpness`, as are loss and logits.
      loss: with what it is divided by.
      logits: for the cross-entropy.

    Raises:
      KernelInputError: as `sharpness`.
    """
    check_loss(loss)
    kernel = _full(kernel)
    n, o = kernel.shape[:2]
    if isinstance(loss, SquaredLoss):
        return loss.curvature(n, o) * kernel
    if logits is None:
        msg = "logits is missing: the Hessian of the cross-entropy depends on them. Pass [N, O]."
        raise KernelInputError(msg)
    return hessian_weighted_kernel(kernel, logits, loss).reshape(kernel.shape) / loss.divisor(n, o)


def sharpness(kernel: Any, loss: SquaredLoss | CrossEntropy, logits: Any = None) -> float:
    """The largest eigenvalue of the Gauss-Newton Hessian of the loss, in float64.

    Args:
      kernel: [N, O, N, O], or [N, N] of a network with one output.
      loss: with what it is divided by.
      logits: as in `hessian_weighted_kernel`, for the cross-entropy.

    Raises:
      KernelInputError: the shapes do not fit, the cross-entropy comes without logits or does not
        say which of them are a softmax, or the loss is none.
    """
    return _lambda_max(curvature_kernel(kernel, loss, logits))


def _lambda_max(kernel: np.ndarray) -> float:
    rows = kernel.shape[0] * kernel.shape[1]
    return float(np.linalg.eigvalsh(kernel.reshape(rows, rows))[-1])


def smoothness(kernel: Any, loss: SquaredLoss | CrossEntropy) -> float:
    """L, an upper bound of the sharpness of the linearised network at any logits.

    Args:
      kernel: as in `sharpness`.
      loss: with what it is divided by.

    Raises:
      KernelInputError: as `sharpness`.
    """
    check_loss(loss)
    if isinstance(loss, SquaredLoss):
        return sharpness(kernel, loss)
    kernel = _full(kernel)
    n, o = kernel.shape[:2]
    root = np.broadcast_to(_root_of_the_bound(o, loss.softmaxes(o)), (n, o, o))
    return _lambda_max(_weighted(kernel, root).reshape(kernel.shape)) / loss.divisor(n, o)


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
    """Above this rate descent on the whole batch is locally unstable.

    Under the squared loss the linearised network diverges above and converges below. Under the
    cross-entropy it leaves the logits that it is at, and may converge elsewhere: the loss spikes;
    and a smaller rate is no safe one where p is 0 or 1 and wrong. `guaranteed_learning_rate` is
    safe. The real network need not diverge either: there, training moves to where the kernel is
    smaller (A. Lewkowycz et al., *The large learning rate phase of deep learning*, 2020). SGD on
    minibatches is unstable far below: see `minibatch_critical_learning_rate`.

    Args:
      kernel: [N, O, N, O] of the examples that the loss is taken over, or [N, N] of one output.
      loss: `SquaredLoss` or `CrossEntropy`, with what it is divided by.
      logits: as in `hessian_weighted_kernel`, for the cross-entropy.
      momentum: beta of SGD in the form v <- beta v + g, theta <- theta - eta v; a form with
        (1 - beta) g has a critical rate that is larger by 1 / (1 - beta).
      nesterov: whether the momentum is Nesterov's.

    Raises:
      KernelInputError: an argument does not fit; the text says which.
    """
    return stable_rate(sharpness(kernel, loss, logits), momentum, nesterov=nesterov)


def guaranteed_learning_rate(
    kernel: Any,
    loss: SquaredLoss | CrossEntropy,
    *,
    momentum: float | int = 0.0,
    nesterov: bool = False,
) -> float:
    """Below this rate descent on the linearised network converges, from any logits.

    The module says what it never raises there. It may be far below the critical rate.

    Args:
      kernel: as in `critical_learning_rate`, as are momentum and nesterov.
      loss: with what it is divided by.
      momentum: beta of SGD.
      nesterov: whether it is Nesterov's.

    Returns:
      The rate; infinite for a kernel of zeros.

    Raises:
      KernelInputError: an argument does not fit; the text says which.
    """
    momentum = checked_momentum(momentum)
    yes_or_no("nesterov", nesterov)
    bound = smoothness(kernel, loss)
    gain = 1.0 if nesterov and momentum else 2 * (1 - momentum)
    return gain / bound if bound > 0 else math.inf


def _full(kernel: Any) -> np.ndarray:
    """The kernel as [N, O, N, O], symmetric, float64."""
    shape = np.shape(kernel)
    matrix = checked_matrix(kernel)
    n, o = shape[:2] if len(shape) == 4 else (len(matrix), 1)
    return matrix.reshape(n, o, n, o)
