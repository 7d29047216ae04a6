r"""How a kernel changes while its network trains.

    relative change  = ||K_t - K_0||_F / ||K_0||_F
    kernel distance  = 1 - <K, K'>_F / (||K||_F ||K'||_F) = ||u - v||_F^2 / 2,  u = K / ||K||_F, ...
    kernel velocity  = kernel distance(K_s, K_t) / (t - s)
    rotation         = principal angles between the spans of the top k eigenvectors

Distance and velocity are those of S. Fort, G. K. Dziugaite, M. Paul, S. Kharaghani, D. M. Roy, S.
Ganguli, *Deep learning versus kernel learning*, NeurIPS 2020, section 3. 1 - cos has no correct
digit where the kernels differ by less than 1e-8; the difference of the normalised kernels, which is
the same number, has nearly all. The distance is of second order in the change, so a velocity
shrinks with the interval it is taken over: compare equal intervals. Angles come from their sines
where these are small and from their cosines elsewhere (A. Bjorck, G. Golub, *Numerical Methods for
Computing Angles Between Linear Subspaces*, Math. Comp. 27, 1973).

>>> import numpy as np
>>> kernel_distance(np.diag([1.0, 1.0]), np.diag([3.0, 3.0]))
0.0
>>> round(relative_change(np.diag([3.0, 3.0]), np.diag([1.0, 1.0])), 12)
2.0
"""

import math
from typing import Any

import numpy as np

from ntk_train._arguments import real_number
from ntk_train.errors import KernelInputError
from ntk_train.spectrum.eigen import checked_matrix, rounding_of
from ntk_train.spectrum.top_space import checked_k, top_space


def relative_change(kernel: Any, reference: Any) -> float:
    """||K - K_ref|| / ||K_ref||, in Frobenius norms; NaN for a reference of zeros.

    Raises:
      KernelInputError: the kernels have different shapes, or are no kernels.
    """
    new, old = _pair(kernel, reference)
    scale = np.max(np.abs(old))
    if not scale:
        return math.nan
    return float(np.linalg.norm((new - old) / scale) / np.linalg.norm(old / scale))


def kernel_distance(first: Any, second: Any) -> float:
    """1 - cos of the angle between two kernels, from 0 (equal up to scale) to 1 (orthogonal).

    2 at most, for kernels that are not positive semidefinite; NaN if one is zero.

    Raises:
      KernelInputError: the kernels have different shapes, or are no kernels.
    """
    first, second = _pair(first, second)
    u, v = _normalised(first), _normalised(second)
    return float(np.sum((u - v) ** 2) / 2)


def kernel_velocity(kernel: Any, previous: Any, steps: float | int) -> float:
    """Kernel distance per step since a previous kernel.

    Raises:
      KernelInputError: steps is not positive, or the kernels do not match.
    """
    expected = "the positive number of steps since the previous kernel"
    steps = real_number("steps", steps, expected, above=0)
    return kernel_distance(kernel, previous) / steps


def principal_angles(kernel: Any, reference: Any, k: int | None = None) -> np.ndarray:
    """Angles between the spans of the top k eigenvectors of two kernels.

    Args:
      kernel: [N, N] or [N, O, N, O].
      reference: another, of the same shape.
      k: how many eigenvectors; by default O for full kernels, and 1 for [N, N].

    Returns:
      [k] float64 radians, from 0 to pi/2, largest first. NaN where one of the spans is not
      determined: its k-th and next eigenvalue differ by the noise floor or less; or by less than
      the kernels do in operator norm, both over their Frobenius norms, so that the change may have
      exchanged the two (C. Davis, W. Kahan, *The Rotation of Eigenvectors by a Perturbation III*,
      1970, whose bound says nothing then). A mere rotation never changes a kernel by more.

    Raises:
      KernelInputError: k is not from 1 to n, or the kernels do not match.
    """
    new, old = _pair(kernel, reference)
    k = checked_k(k, kernel, n=len(new))
    if not (np.any(new) and np.any(old)):
        return np.full(k, math.nan)
    new, old = _normalised(new), _normalised(old)
    now = top_space(new, k, rounding_of(kernel))
    before = top_space(old, k, rounding_of(reference))
    if now is None or before is None:
        return np.full(k, math.nan)
    (u, gap), (v, gap_before) = now, before
    change = np.max(np.abs(np.linalg.eigvalsh(new - old)))
    if min(gap, gap_before) < change * (1 - 1e-6):  # a rotation by pi/2 changes by the gap
        return np.full(k, math.nan)
    cosines = np.linalg.svd(u.T @ v, compute_uv=False)[::-1]  # ascending, as angles descend
    sines = np.linalg.svd(v - u @ (u.T @ v), compute_uv=False)
    cosines, sines = np.clip(cosines, 0, 1), np.clip(sines, 0, 1)
    return np.where(cosines**2 < 0.5, np.arccos(cosines), np.arcsin(sines))


def _pair(first: Any, second: Any) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(first) != np.shape(second):
        msg = (
            f"The kernels have shapes {np.shape(first)} and {np.shape(second)}; a change is only "
            "defined on one probe batch and one mode of outputs."
        )
        raise KernelInputError(msg)
    return checked_matrix(first), checked_matrix(second)


def _normalised(matrix: np.ndarray) -> np.ndarray:
    scale = np.max(np.abs(matrix))
    if not scale:
        return np.full_like(matrix, math.nan)
    matrix = matrix / scale
    return matrix / np.linalg.norm(matrix)
