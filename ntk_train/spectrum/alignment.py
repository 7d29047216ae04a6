r"""How well a kernel's geometry agrees with the labels.

    alignment = <K, Y Y^T>_F / (||K||_F ||Y Y^T||_F)
    centred:    the same of H K H and H Y, with H = I - 1 1^T / N

N. Cristianini, J. Shawe-Taylor, A. Elisseeff, J. Kandola, *On Kernel-Target Alignment*, NIPS 2001,
definition 1 and equation 3. Centred: C. Cortes, M. Mohri, A. Rostamizadeh, *Algorithms for Learning
Kernels Based on Centered Alignment*, JMLR 2012, definition 4, which is the linear CKA of
S. Kornblith, M. Norouzi, H. Lee, G. Hinton, *Similarity of Neural Network Representations
Revisited*, ICML 2019, equation 1 with the bias of the biased HSIC. Of positive semidefinite kernels
both lie in [0, 1]. With N examples chance is not 0: it is about 1 / sqrt(effective rank) or more.

Both sides are divided by their largest entry before a norm is taken, so that kernels of any scale
neither over- nor underflow. A full kernel [N, O, N, O] is one matrix over pairs (n, o), its target
the vector of the N O targets; it is centred over examples, output by output.

>>> import numpy as np
>>> y = np.array([1.0, 1.0, -1.0])
>>> round(kernel_target_alignment(np.outer(y, y), y), 12)
1.0
"""

import math
from typing import Any

import numpy as np

from ntk_train._arguments import numeric_array, whole_number
from ntk_train.errors import KernelInputError
from ntk_train.spectrum.eigen import checked_matrix, rounding_of


def kernel_target_alignment(kernel: Any, labels: Any, *, centred: bool = False) -> float:
    """Cosine between a kernel and the kernel of the labels.

    Args:
      kernel: [N, N] or [N, O, N, O].
      labels: classes, integers [N]; or targets, floats [N] or [N, C]. Classes become one-hot rows,
        or -1 and 1 for a full kernel of one output. For a full kernel C is O.
      centred: whether examples are centred first, on both sides (CKA).

    Returns:
      From 0 to 1 for a positive semidefinite kernel; NaN for a kernel or targets of zeros, and,
      if centred, where all examples have the same kernel row or label.

    Raises:
      KernelInputError: shapes or values of the labels do not fit the kernel.
      DtypeError, NonFiniteKernelError: as `kernel_spectrum`.
    """
    outputs = np.shape(kernel)[1] if np.ndim(kernel) == 4 else None
    matrix = checked_matrix(kernel)
    targets = as_targets(labels, len(matrix) // (outputs or 1), outputs)
    eps = rounding_of(kernel)
    before = np.max(np.abs(matrix)), np.max(np.abs(targets))
    if centred:
        matrix, targets = _centred_kernel(matrix, outputs), targets - targets.mean(axis=0)
    if outputs is not None:
        targets = targets.reshape(-1, 1)
    size, spread = np.max(np.abs(matrix)), np.max(np.abs(targets))
    # What centring has left of a constant is its rounding error.
    n = len(matrix)
    if size <= centred * n * eps * before[0] or spread <= centred * n * 2**-52 * before[1]:
        return math.nan
    matrix, targets = matrix / size, targets / spread
    gram = targets.T @ targets  # ||Y Y^T||_F = ||Y^T Y||_F
    agreement = np.sum(targets * (matrix @ targets))
    return float(agreement / np.linalg.norm(matrix) / np.linalg.norm(gram))


def top_space_alignment(kernel: Any, labels: Any, k: int, *, centred: bool = False) -> float:
    """Share of the targets' squared norm that lies in the top k eigenvectors of a kernel.

        ||U_k^T Y||_F^2 / ||Y||_F^2

    From 0 to 1, and about k / n for targets that have nothing to do with the kernel (n is N, or
    N O for a full one). Gradient descent fits this part of the labels first (S. Arora, S. Du, W.
    Hu, Z. Li, R. Wang, *Fine-Grained Analysis of Optimization and Generalization for
    Overparameterized Two-Layer Neural Networks*, ICML 2019, section 4).

    Args:
      kernel: as in `kernel_target_alignment`, as are labels.
      labels: the targets.
      k: how many eigenvectors; at most n.
      centred: whether the targets are centred over examples; the kernel is left as it is.

    Raises:
      KernelInputError: k or the labels do not fit.
    """
    outputs = np.shape(kernel)[1] if np.ndim(kernel) == 4 else None
    matrix = checked_matrix(kernel)
    n = len(matrix)
    k = whole_number("k", k, f"1 to {n}, as the kernel has {n} eigenvectors", most=n)
    targets = as_targets(labels, len(matrix) // (outputs or 1), outputs)
    if centred:
        before = np.max(np.abs(targets))
        targets = targets - targets.mean(axis=0)
        if np.max(np.abs(targets)) <= len(targets) * 2**-52 * before:
            return math.nan
    if outputs is not None:
        targets = targets.reshape(-1, 1)
    _, vectors = np.linalg.eigh(matrix)
    total = np.linalg.norm(targets)
    return float(np.linalg.norm(vectors[:, -k:].T @ targets / total) ** 2) if total else math.nan


def as_targets(labels: Any, n: int, outputs: int | None) -> np.ndarray:
    """Labels as float64 targets [N, C]; see `kernel_target_alignment`."""
    expected = "integers [N], or real targets [N] or [N, C]"
    labels = numeric_array("labels", labels, expected)
    if labels.shape[:1] != (n,) or labels.ndim > 2 or np.iscomplexobj(labels):
        msg = (
            f"labels is {labels.dtype}{list(labels.shape)}; the kernel is of {n} examples: "
            f"expected {expected}."
        )
        raise KernelInputError(msg)
    if labels.ndim == 1 and (labels.dtype == bool or np.issubdtype(labels.dtype, np.integer)):
        labels = _one_hot(labels.astype(np.int64), outputs)
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


def _one_hot(classes: np.ndarray, outputs: int | None) -> np.ndarray:
    signed = outputs == 1
    count = 2 if signed else (int(classes.max()) + 1 if outputs is None else outputs)
    if classes.min() < 0 or classes.max() >= count:
        msg = f"labels has classes {classes.min()} to {classes.max()}; expected 0 to {count - 1}."
        raise KernelInputError(msg)
    return 2.0 * classes[:, None] - 1 if signed else np.eye(count)[classes]


def _centred_kernel(matrix: np.ndarray, outputs: int | None) -> np.ndarray:
    o = outputs or 1
    n = len(matrix) // o
    kernel = matrix.reshape(n, o, n, o)
    kernel = kernel - kernel.mean(axis=0, keepdims=True)
    kernel = kernel - kernel.mean(axis=2, keepdims=True)
    return kernel.reshape(n * o, n * o)
