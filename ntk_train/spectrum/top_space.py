"""The span of a kernel's top k eigenvectors, and how large k is where nobody says.

A full kernel of O outputs has its eigenvalues in groups of about O, as each direction of the
examples comes once for each output: within a group eigenvectors turn at the slightest change, and
its span does not. So k is O for a full kernel by default, and 1 for [N, N].
"""

from typing import Any

import numpy as np

from ntk_train._arguments import whole_number


def checked_k(k: Any, kernel: Any, *, n: int) -> int:
    """How many eigenvectors, by default as many as a full kernel has outputs.

    Args:
      k: a number, or None.
      kernel: [N, N] or [N, O, N, O].
      n: how many eigenvectors there are.

    Raises:
      KernelInputError: k is no number from 1 to n.
    """
    if k is None:
        return min(np.shape(kernel)[1], n) if np.ndim(kernel) == 4 else 1
    return whole_number("k", k, f"1 to {n}, as there are {n} eigenvectors, or None", most=n)


def top_space(matrix: np.ndarray, k: int, eps: float) -> tuple[np.ndarray, float] | None:
    """The top k eigenvectors [n, k], and the gap below them; None where they span no one space.

    That is where the gap is at or below the noise floor. It is infinite for k = n.

    Args:
      matrix: [n, n], symmetric.
      k: from 1 to n.
      eps: relative rounding error of an entry.
    """
    values, vectors = np.linalg.eigh(matrix)
    floor = len(values) * eps * max(float(values[-1]), 0.0)
    gap = float(values[-k] - values[-k - 1]) if k < len(values) else np.inf
    return None if gap <= floor else (vectors[:, -k:], gap)
