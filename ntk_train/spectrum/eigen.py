r"""The spectrum of a dense kernel, in float64 on the host, with its noise floor.

    Theta = U diag(lambda) U^T,    kappa = lambda_max / lambda_min,
    effective rank = (sum_i lambda_i)^2 / sum_i lambda_i^2

A kernel computed in floating point with unit roundoff eps has eigenvalues that are uncertain by at
most about n eps lambda_max (Weyl's inequality with the usual bound on a rounded Gram product; G.
Golub, C. Van Loan, *Matrix Computations*, 4th edition, section 8.1). This noise floor is what can
be guaranteed: what stands above it is no noise, so that the condition number is a lower bound,
lambda_max over the floor, where lambda_min does not, and the numerical rank is one too. No
eigenvalue is clipped and nothing is added to it.

Rounding errors do not conspire as the bound has them: those of a real kernel in float32 are about
1000 times smaller. The estimated floor is the largest of what the kernel itself shows,

    -lambda_min,    ||K - K^T||_F / sqrt n,    2 eps ||K||_F / sqrt n

as an exact kernel has no negative eigenvalue and is symmetric, and as a symmetric or skew matrix of
independent entries with mean square s^2 has the norm 2 s sqrt n (E. Wigner, *On the Distribution of
the Roots of Certain Symmetric Matrices*, Annals of Mathematics 67, 1958); the last has an error of
eps in each entry. Beside float64 kernels (`tests/spectrum/test_eigen.py`) it is 0.5 to 15 times the
noise of those in float32, and their eigenvalues of five times the floor are good to 10 %. It is an
estimate: errors that many entries share, as those of the forward pass, are not in it where they
leave the kernel symmetric and semidefinite. They change eigenvalues in proportion, large ones more
than small ones.

>>> import numpy as np, ntk_train
>>> s = ntk_train.kernel_spectrum(np.diag([4.0, 2.0, 1.0]))
>>> s.condition_number, s.condition_is_lower_bound, s.numerical_rank
(4.0, False, 3)
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ntk_train._arguments import described, numeric_array, real_number
from ntk_train.errors import DtypeError, KernelInputError, NonFiniteKernelError


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of one kernel and what follows from them; plain floats and float64 arrays.

    Attributes:
      eigenvalues: [n] float64, descending; of a kernel [N, O, N, O] n is N O.
      noise_floor: n eps lambda_max; eigenvalues above it are no rounding noise.
      estimated_noise_floor: of the size that the rounding noise has in this kernel.
    """

    eigenvalues: np.ndarray
    noise_floor: float
    estimated_noise_floor: float

    @property
    def lambda_max(self) -> float:
        """The largest eigenvalue."""
        return float(self.eigenvalues[0])

    @property
    def lambda_min(self) -> float:
        """The smallest eigenvalue as computed, negative or below the noise floor if it is so."""
        return float(self.eigenvalues[-1])

    @property
    def condition_is_lower_bound(self) -> bool:
        """Whether lambda_min may be noise: then the condition number may be larger."""
        return self.lambda_min <= self.noise_floor

    @property
    def condition_number(self) -> float:
        """lambda_max / lambda_min, or lambda_max / noise_floor where lambda_min may be noise.

        At least 1; NaN for a kernel of zeros, or one with no positive eigenvalue; infinite where
        there is no floor to bound it.
        """
        return self._condition(self.noise_floor)

    @property
    def estimated_condition_number(self) -> float:
        """The same with the estimated noise floor: as it is, as far as can be told."""
        return self._condition(self.estimated_noise_floor)

    def _condition(self, floor: float) -> float:
        if not self.lambda_max > 0:
            return math.nan
        least = max(self.lambda_min, floor)
        return max(1.0, self.lambda_max / least) if least > 0 else math.inf

    @property
    def numerical_rank(self) -> int:
        """How many eigenvalues are above the noise floor; the largest is, if it is positive."""
        return self._rank(self.noise_floor)

    @property
    def estimated_rank(self) -> int:
        """How many eigenvalues are above the estimated noise floor."""
        return self._rank(self.estimated_noise_floor)

    def _rank(self, floor: float) -> int:
        return max(int(np.sum(self.eigenvalues > floor)), int(self.lambda_max > 0))

    @property
    def trace(self) -> float:
        """The sum of the eigenvalues."""
        return float(self.eigenvalues.sum())

    @property
    def effective_rank(self) -> float:
        """The participation ratio trace^2 / ||Theta||_F^2, from 1 to n; 0 for a kernel of zeros.

        Equal eigenvalues give n, one dominant eigenvalue gives 1. Noise adds to it only in the
        second order of the floor.
        """
        if not self.lambda_max > 0:
            return 0.0
        shares = self.eigenvalues / self.lambda_max  # whose squares do not overflow
        return max(1.0, float(np.sum(shares) ** 2 / np.sum(shares**2)))

    def scalars(self) -> dict[str, float]:
        """The numbers by the names under which they are logged."""
        return {
            "lambda_max": self.lambda_max,
            "lambda_min": self.lambda_min,
            "noise_floor": self.noise_floor,
            "estimated_noise_floor": self.estimated_noise_floor,
            "condition_number": self.condition_number,
            "condition_is_lower_bound": float(self.condition_is_lower_bound),
            "estimated_condition_number": self.estimated_condition_number,
            "numerical_rank": float(self.numerical_rank),
            "estimated_rank": float(self.estimated_rank),
            "trace": self.trace,
            "effective_rank": self.effective_rank,
        }


def kernel_spectrum(kernel: Any, *, eps: float | None = None) -> Spectrum:
    """Eigenvalues of a kernel, and its noise floor.

    Args:
      kernel: real array [N, N] or [N, O, N, O], on the device or the host. It is symmetrised
        before the decomposition, so that rounding in one triangle does not decide.
      eps: relative rounding error of an entry of the kernel. By default that of the kernel's
        dtype; a kernel whose products were rounded to fewer bits needs its own (2**-11 for TF32).
        From 0 to below 1.

    Returns:
      A `Spectrum`.

    Raises:
      KernelInputError: the array is no square kernel, is empty, or is far from symmetric; or eps
        is no relative error.
      DtypeError: it is complex.
      NonFiniteKernelError: the kernel has NaN or infinite entries; the text says how many.
    """
    matrix = checked_matrix(kernel)
    eps = rounding_of(kernel) if eps is None else _relative_error(eps)
    eigenvalues = np.linalg.eigvalsh(matrix)[::-1]
    floor = len(matrix) * eps * max(float(eigenvalues[0]), 0.0)
    raw = np.asarray(kernel).astype(np.float64).reshape(matrix.shape)
    estimated = max(
        -float(eigenvalues[-1]),
        _norm_of_noise((raw - raw.T) / 2),
        min(eps * _norm_of_noise(eigenvalues), floor),
    )
    return Spectrum(eigenvalues, floor, estimated)


def _norm_of_noise(entries: np.ndarray) -> float:
    """2 ||.||_F / sqrt n of a matrix [n, n], or of one with the eigenvalues [n]."""
    size = float(np.max(np.abs(entries)))
    if not size:
        return 0.0
    return 2 * size * float(np.linalg.norm(entries / size)) / math.sqrt(len(entries))


def _relative_error(eps: Any) -> float:
    return real_number(
        "eps",
        eps,
        "a relative rounding error from 0 to below 1, as 2**-11, or None",
        least=0,
        below=1,
    )


def rounding_of(kernel: Any) -> float:
    """Machine epsilon of the dtype in which a kernel was computed, whatever it is cast to here."""
    dtype = np.asarray(kernel).dtype
    is_float = jnp.issubdtype(dtype, jnp.floating)
    return float(jnp.finfo(dtype if is_float else np.float64).eps)


def checked_matrix(kernel: Any, name: str = "kernel") -> np.ndarray:
    """A kernel [N, N] or [N, O, N, O] as one symmetric float64 matrix on the host.

    Args:
      kernel: the array.
      name: of the argument, for errors.

    Raises:
      KernelInputError, DtypeError, NonFiniteKernelError: as `kernel_spectrum`.
    """
    kernel = numeric_array(name, kernel, "the array that ntk_train.ntk returns")
    if np.iscomplexobj(kernel):
        msg = f"{name} is {described(kernel)}; a tangent kernel is real."
        raise DtypeError(msg)
    matrix = _as_matrix(kernel, name)
    bad = ~np.isfinite(matrix)
    if np.any(bad):
        msg = (
            f"{name} has {np.sum(bad)} NaN or infinite entries of {matrix.size}, so it has no "
            f"spectrum: {_cause(bad, len(kernel))}"
        )
        raise NonFiniteKernelError(msg)
    asymmetry = np.max(np.abs(matrix - matrix.T))
    if asymmetry > 0.01 * np.max(np.abs(matrix)):
        msg = (
            f"{name} is not symmetric: entries differ from their mirror images by up to "
            f"{asymmetry:.3g}. A kernel of x1 with other inputs x2 has no spectrum (use x2=None), "
            "and [N, N, O, O] of empirical_ntk_fn needs kernel.transpose(0, 2, 1, 3)."
        )
        raise KernelInputError(msg)
    return (matrix + matrix.T) / 2


def _cause(bad: np.ndarray, n: int) -> str:
    """Which examples make a kernel of n examples not finite, and what that may come from.

    A derivative that is not finite spoils a row and a column, which meet where its example is
    paired with itself.
    """
    pairs = np.any(bad.reshape(n, len(bad) // n, n, -1), axis=(1, 3))  # [n, m]
    own = np.diagonal(pairs)
    examples = np.flatnonzero(own if np.any(own) else np.any(pairs, axis=1))
    if len(examples) == n:
        return (
            f"those of each of the {n} examples. Parameters, inputs or outputs of the network are "
            "not finite, or their derivatives overflow."
        )
    shown = ", ".join(map(str, examples[:10])) + (", ..." if len(examples) > 10 else "")
    return (
        f"those of {len(examples)} of the {n} examples, at {shown} (from 0). Their outputs or the "
        "derivatives of these are not finite, as that of a square root, a norm or a power at 0, "
        "also where jnp.where leaves it out; give such a function another argument there."
    )


def _as_matrix(kernel: np.ndarray, name: str) -> np.ndarray:
    shape = kernel.shape
    if len(shape) == 4 and shape[:2] == shape[2:]:
        kernel = kernel.reshape(shape[0] * shape[1], -1)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.size == 0:
        hint = (
            " This looks like outputs='diagonal': take one output at a time, kernel[..., o]."
            if len(shape) == 3
            else " From [N, N, O, O] (empirical_ntk_fn) take kernel.transpose(0, 2, 1, 3)."
            if len(shape) == 4 and shape[0] == shape[1] and shape[2] == shape[3]
            else " A kernel of x1 with other inputs x2 has no eigenvalues; use x2=None."
        )
        msg = f"{name} has shape {shape}; expected [N, N] or [N, O, N, O] with N, O > 0.{hint}"
        raise KernelInputError(msg)
    return kernel.astype(np.float64)
