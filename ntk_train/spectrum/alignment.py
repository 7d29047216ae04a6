r"""How well a kernel's geometry agrees with the labels.

    alignment = <K, Y Y^T>_F / (||K||_F ||Y Y^T||_F)
    centred:    the same of H K H and H Y, with H = I - 1 1^T / N

N. Cristianini, J. Shawe-Taylor, A. Elisseeff, J. Kandola, *On Kernel-Target Alignment*, NIPS 2001,
definition 1 and equation 3. Centred: C. Cortes, M. Mohri, A. Rostamizadeh, *Algorithms for Learning
Kernels Based on Centered Alignment*, JMLR 2012, definition 4, which is the linear CKA of
S. Kornblith, M. Norouzi, H. Lee, G. Hinton, *Similarity of Neural Network Representations
Revisited*, ICML 2019, equation 1 with the bias of the biased HSIC. Of positive semidefinite kernels
both lie in [0, 1].

With N examples chance is not 0 but about 1 / sqrt(effective rank) or more, 0.13 to 0.26 at N = 64.
The debiased one is 0 by chance: its diagonals are left out, and it is centred so that the mean over
all orders of the labels is 0 (L. Song, A. Smola, A. Gretton, J. Bedo, K. Borgwardt, *Feature
Selection via Dependence Maximization*, JMLR 2012, equation 5; in the form of G. Szekely, M. Rizzo,
*Partial distance correlation with methods for dissimilarities*, Ann. Statist. 2014):

    <K~, L~> / (||K~|| ||L~||),   K~_ij = K_ij - (r_i + r_j) / (N - 2) + s / ((N - 1) (N - 2)),

for i != j, with r the row sums and s the sum of K without its diagonal, and L = Y Y^T.

Of a full kernel [N, O, N, O] the alignments are those of its trace over outputs, [N, N]: against
the vector of all N O targets O independent heads, each with the kernel of the labels, would reach
no more than 1 / O. `top_space_alignment` takes it as one matrix over pairs (n, o), and its targets
as that vector.

Both sides are divided by their largest entry before a norm is taken, so that kernels of any scale
neither over- nor underflow.

>>> import numpy as np
>>> y = np.array([1.0, 1.0, -1.0])
>>> round(kernel_target_alignment(np.outer(y, y), y), 12)
1.0
"""

import math
from typing import Any

import numpy as np

from ntk_train._arguments import numeric_array
from ntk_train.errors import KernelInputError
from ntk_train.spectrum.eigen import checked_matrix, rounding_of
from ntk_train.spectrum.top_space import checked_k, top_space


def kernel_target_alignment(kernel: Any, labels: Any, *, centred: bool = False) -> float:
    """Cosine between a kernel and the kernel of the labels.

    Args:
      kernel: [N, N] or [N, O, N, O], which counts as its trace over outputs.
      labels: classes, integers [N] or [N, 1]; or targets, floats [N] or [N, C]. Classes become
        one-hot rows, or -1 and 1 for a full kernel of one output. For a full kernel C is O.
      centred: whether examples are centred first, on both sides (CKA).

    Returns:
      From 0 to 1 for a positive semidefinite kernel; NaN for a kernel or targets of zeros, and,
      if centred, where all examples have the same kernel row or label.

    Raises:
      KernelInputError: shapes or values of the labels do not fit the kernel.
      DtypeError, NonFiniteKernelError: as `kernel_spectrum`.
    """
    matrix, targets = _of_examples(kernel, labels)
    eps = rounding_of(kernel)
    before = np.max(np.abs(matrix)), np.max(np.abs(targets))
    if centred:
        matrix = matrix - matrix.mean(axis=0)
        matrix = matrix - matrix.mean(axis=1, keepdims=True)
        targets = targets - targets.mean(axis=0)
    size, spread = np.max(np.abs(matrix)), np.max(np.abs(targets))
    # What centring has left of a constant is its rounding error.
    n = len(matrix)
    if size <= centred * n * eps * before[0] or spread <= centred * n * 2**-52 * before[1]:
        return math.nan
    matrix, targets = matrix / size, targets / spread
    gram = targets.T @ targets  # ||Y Y^T||_F = ||Y^T Y||_F
    agreement = np.sum(targets * (matrix @ targets))
    return float(agreement / np.linalg.norm(matrix) / np.linalg.norm(gram))


def debiased_kernel_target_alignment(kernel: Any, labels: Any) -> float:
    """The centred alignment without its bias: 0 on average for labels in random order.

    Args:
      kernel: as in `kernel_target_alignment`, as are labels.
      labels: classes or targets.

    Returns:
      From -1 to 1; 1 for the kernel of the labels. NaN for fewer than 4 examples, and where all
      have the same kernel row or label.

    Raises:
      KernelInputError, DtypeError, NonFiniteKernelError: as `kernel_target_alignment`.
    """
    matrix, targets = _of_examples(kernel, labels)
    if len(matrix) < 4:
        return math.nan
    spread = np.max(np.abs(targets)) or 1.0
    u = _without_bias(matrix, rounding_of(kernel))
    v = _without_bias((targets / spread) @ (targets / spread).T, 2**-52)
    if u is None or v is None:
        return math.nan
    return float(np.sum(u * v) / np.linalg.norm(u) / np.linalg.norm(v))


def _without_bias(matrix: np.ndarray, eps: float) -> np.ndarray | None:
    """K~ up to a factor; None where all that is left is rounding."""
    n, largest = len(matrix), np.max(np.abs(matrix))
    if not largest:
        return None
    matrix = matrix / largest
    np.fill_diagonal(matrix, 0)
    rows = matrix.sum(axis=0)
    matrix = matrix - (rows[:, None] + rows) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(matrix, 0)
    return None if np.max(np.abs(matrix)) <= n * eps else matrix


def _of_examples(kernel: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """A kernel as [N, N], traced over outputs, and targets [N, C]."""
    outputs = np.shape(kernel)[1] if np.ndim(kernel) == 4 else None
    matrix = checked_matrix(kernel)
    n = len(matrix) // (outputs or 1)
    targets = as_targets(labels, n, outputs)
    if outputs is not None:
        largest = np.max(np.abs(matrix)) or 1.0  # the sum over outputs might overflow
        matrix = np.einsum("nomo->nm", (matrix / largest).reshape(n, outputs, n, outputs))
    return matrix, targets


def top_space_alignment(
    kernel: Any, labels: Any, k: int | None = None, *, centred: bool = False
) -> float:
    """Share of the targets' squared norm that lies in the top k eigenvectors of a kernel.

        ||U_k^T Y||_F^2 / ||Y||_F^2

    From 0 to 1, and about k / n for targets that have nothing to do with the kernel (n is N, or
    N O for a full one). Gradient descent fits this part of the labels first (S. Arora, S. Du, W.
    Hu, Z. Li, R. Wang, *Fine-Grained Analysis of Optimization and Generalization for
    Overparameterized Two-Layer Neural Networks*, ICML 2019, section 4).

    Args:
      kernel: [N, N] or [N, O, N, O].
      labels: as in `kernel_target_alignment`.
      k: how many eigenvectors, at most n; by default O for a full kernel, and 1 for [N, N].
      centred: whether the targets are centred over examples; the kernel is left as it is.

    Returns:
      The share; NaN for targets of zeros, and where the k-th and the next eigenvalue differ by the
      noise floor or less, so that there is no one space of k eigenvectors.

    Raises:
      KernelInputError: k or the labels do not fit.
    """
    outputs = np.shape(kernel)[1] if np.ndim(kernel) == 4 else None
    matrix = checked_matrix(kernel)
    k = checked_k(k, kernel, n=len(matrix))
    targets = as_targets(labels, len(matrix) // (outputs or 1), outputs)
    if centred:
        before = np.max(np.abs(targets))
        targets = targets - targets.mean(axis=0)
        if np.max(np.abs(targets)) <= len(targets) * 2**-52 * before:
            return math.nan
    if outputs is not None:
        targets = targets.reshape(-1, 1)
    space, total = top_space(matrix, k, rounding_of(kernel)), np.linalg.norm(targets)
    if space is None or not total:
        return math.nan
    return float(np.linalg.norm(space[0].T @ targets / total) ** 2)


def as_targets(labels: Any, n: int, outputs: int | None) -> np.ndarray:
    """Labels as float64 targets [N, C]; see `kernel_target_alignment`."""
    expected = "integers [N] or [N, 1], or real targets [N] or [N, C]"
    labels = numeric_array("labels", labels, expected)
    if labels.shape[:1] != (n,) or labels.ndim > 2 or np.iscomplexobj(labels):
        msg = (
            f"labels is {labels.dtype}{list(labels.shape)}; the kernel is of {n} examples: "
            f"expected {expected}."
        )
        raise KernelInputError(msg)
    if are_classes(labels):
        labels = _one_hot(labels.reshape(n).astype(np.int64), outputs)
    targets = labels.astype(np.float64).reshape(n, -1)
    if not np.all(np.isfinite(targets)):
        msg = "labels holds NaN or infinite targets; expected finite numbers."
        raise KernelInputError(msg)
    if outputs is not None and targets.shape[1] != outputs:
        msg = (
            f"labels has {targets.shape[1]} targets per example; a full kernel of {outputs} "
            "outputs needs as many. outputs='trace' takes any number."
        )
        raise KernelInputError(msg)
    return targets


def are_classes(labels: np.ndarray) -> bool:
    """Whether labels are classes, and not targets: integers [N], or [N, 1] as some loaders have."""
    is_whole = labels.dtype == bool or np.issubdtype(labels.dtype, np.integer)
    return bool(is_whole) and (labels.ndim == 1 or labels.shape[1:] == (1,))


def _one_hot(classes: np.ndarray, outputs: int | None) -> np.ndarray:
    most = math.inf if outputs is None else max(outputs, 2) - 1
    if classes.min() < 0 or classes.max() > most:
        known = "from 0" if outputs is None else f"0 to {most}"
        msg = f"labels has classes {classes.min()} to {classes.max()}; expected {known}."
        raise KernelInputError(msg)
    if outputs is None:  # a class without examples changes nothing, and may be the millionth
        classes = np.unique(classes, return_inverse=True)[1]
        return np.eye(int(classes.max()) + 1)[classes]
    return 2.0 * classes[:, None] - 1 if outputs == 1 else np.eye(outputs)[classes]
