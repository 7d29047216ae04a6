r"""The largest learning rate at which SGD on minibatches is stable, from the tangent kernel.

A batch of B examples is drawn at each step, so that the gradient in the outputs is that of the
whole loss plus a noise which grows with the outputs' distance from their minimum. What SGD makes of
that noise decides, and not lambda_max alone: at B = 1 the edge lies far below that of descent on
the whole batch, and momentum, which raises the latter, lowers it.

K is the curvature kernel of N examples in `learning_rate.py`, with the eigenvalues of G, and U
diag(g) U^T its decomposition. A kick in eigendirection a has, over all later steps, the energy

    a(x) = x (1 + beta) / ((1 - beta) (2 (1 + beta) - x)),    x = eta g_a     (heavy ball)

(x / (2 - x) without momentum; Nesterov's is in the code). The second moments of SGD on the
linearised network stay bounded while

    max over examples i of  lambda_max of the block (i, i) of  (N / B) U diag(a(eta g)) U^T  <=  1.

Derivation: the covariance of the noise of a batch is at most N / B times the blocks (i, i) of the
second moment of the outputs. The map from these blocks to those that their noise leads to is
positive and self-adjoint. Its largest eigenvalue is at most that of the blocks above, and at least
their mean diagonal entry; so the true edge lies between this rate and the one at which the mean is
1, but for a part of about one over the rank of K.

The mean is what A. Agarwala and J. Pennington call the norm of the noise kernel (*High dimensional
analysis reveals conservative sharpening and a stochastic edge of stability*, 2024); for momentum
see M. Velikanov, D. Kuznedelev, D. Yarotsky, *A view of mini-batch SGD via generating functions*,
ICLR 2023. Without momentum and for small eta g the bound is eta <= 2 B / (N max_i K_ii), that of P.
Jain, S. Kakade, R. Kidambi, P. Netrapalli, A. Sidford, *Parallelizing stochastic gradient descent
for least squares regression*, JMLR 2018. The exact edge without momentum is that of R. Mulayoff, T.
Michaeli, *Exact Mean Square Linear Stability Analysis for SGD*, COLT 2024; its matrix has P^2 rows.

>>> import numpy as np
>>> from ntk_train.spectrum.losses import SquaredLoss
>>> round(minibatch_critical_learning_rate(np.eye(2), SquaredLoss(mean="examples"), 1), 12)
1.333333333333
"""

from typing import Any

import numpy as np

from ntk_train._arguments import whole_number, yes_or_no
from ntk_train.spectrum.learning_rate import checked_momentum, curvature_kernel, stable_rate
from ntk_train.spectrum.losses import CrossEntropy, SquaredLoss

_BISECTIONS = 50


def minibatch_critical_learning_rate(
    kernel: Any,
    loss: SquaredLoss | CrossEntropy,
    batch_size: int,
    *,
    logits: Any = None,
    momentum: float | int = 0.0,
    nesterov: bool = False,
) -> float:
    """Up to this rate SGD on the linearised loss is stable in the mean square.

    Batches are drawn with replacement, or from far more data than one batch; the kernel stands for
    all of it. For the cross-entropy the loss is taken as the quadratic that it is near the logits.
    The rate is a lower bound of the edge, as the module says, and close to it where examples have
    equal curvature. As B grows it tends to the critical rate of the whole batch.

    Args:
      kernel: as in `critical_learning_rate`, as are loss, logits, momentum and nesterov. A loss
        that is divided by nothing is the sum over the batch.
      loss: with what it is divided by.
      batch_size: B, examples in a batch.
      logits: for the cross-entropy.
      momentum: beta of SGD.
      nesterov: whether it is Nesterov's.

    Returns:
      The rate; infinite for a loss without curvature.

    Raises:
      KernelInputError: an argument does not fit; the text says which.
    """
    batch_size = checked_batch_size(batch_size)
    momentum = checked_momentum(momentum)
    yes_or_no("nesterov", nesterov)
    curvature = curvature_kernel(kernel, loss, logits)
    n, o = curvature.shape[:2]
    if loss.mean == "none":  # a batch has B of the N terms
        curvature = curvature * (batch_size / n)
    values, vectors = np.linalg.eigh(curvature.reshape(n * o, n * o))
    of_the_whole = stable_rate(float(values[-1]), momentum, nesterov=nesterov)
    if not np.isfinite(of_the_whole):
        return of_the_whole
    values, rows = np.maximum(values, 0), vectors.reshape(n, o, n * o)

    def is_stable(rate: float) -> bool:
        energies = _energy_of_a_kick(rate * values, momentum, nesterov)
        blocks = np.einsum("noa,a,npa->nop", rows, energies, rows, optimize=True)
        return bool(np.linalg.eigvalsh(blocks)[:, -1].max() * n <= batch_size)

    # In terms of the logarithm, as the edge may be thousands of times below.
    low, high = of_the_whole * 1e-12, of_the_whole
    for _ in range(_BISECTIONS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if is_stable(middle) else (low, middle)
    return low


def checked_batch_size(batch_size: Any) -> int:
    """The B of SGD.

    Raises:
      KernelInputError: it is no whole number of 1 or more.
    """
    return whole_number("batch_size", batch_size, "the examples in a batch, 1 or more")


def _energy_of_a_kick(x: np.ndarray, momentum: float, nesterov: bool) -> np.ndarray:
    """Sum over later steps of the squared response to unit noise in the gradient, times g^2.

    The response is that of an autoregression of second order, and for Nesterov's momentum with a
    moving average of first order, whose variance is known in closed form.

    Args:
      x: eta g of each direction, below the edge of the whole batch.
      momentum: beta.
      nesterov: whether it is Nesterov's.
    """
    beta, left = momentum, 1 - x
    with np.errstate(divide="ignore"):
        if not nesterov:
            return x * (1 + beta) / ((1 - beta) * (2 * (1 + beta) - x))
        kick = (1 + beta * left) * ((1 + beta) ** 2 + beta**2)
        kick -= 2 * beta * (1 + beta) ** 2 * left
        return x * kick / ((1 - beta * left) * (1 + (1 + 2 * beta) * left))
