r"""How the eigenvalues of a kernel decay: its entropy rank and the exponent of a power law.

    entropy rank = exp(-sum_i p_i log p_i),  p_i = lambda_i / trace
    lambda_i ~ c i^(-alpha):  log lambda_i = log c - alpha log i,  i = first..last

The entropy rank is that of O. Roy, M. Vetterli, *The effective rank: a measure of effective
dimensionality*, EUSIPCO 2007, definition 1, on eigenvalues: from 1 to n, larger than the
participation ratio (the Renyi entropy of order 2 in place of order 1), and more sensitive to the
tail. The exponent is a least-squares fit of log lambda over log i; B. Bordelon, A. Canatar,
C. Pehlevan, *Spectrum Dependent Learning Curves in Kernel Regression and Wide Neural Networks*,
ICML 2020, section 4, relate it to how the error falls with the number of examples.

>>> import numpy as np
>>> from ntk_train.spectrum import kernel_spectrum
>>> fit = power_law(kernel_spectrum(np.diag(np.arange(1.0, 9.0) ** -2)))
>>> round(fit.exponent, 6), fit.first, fit.last
(2.0, 1, 8)
"""

import dataclasses
import math
from typing import Any

import numpy as np

from ntk_train._arguments import check_type, whole_number
from ntk_train.spectrum.eigen import Spectrum


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """A fit lambda_i ~ c i^(-exponent) over ranks first..last, counted from 1.

    Attributes:
      exponent: alpha; NaN where fewer than three eigenvalues stand above the noise floor.
      r_squared: share of the variance of log lambda that the fit explains, from 0 to 1. NaN with
        the exponent, and where all eigenvalues are equal, so that there is no variance.
      first: the first rank of the fit.
      last: the last rank of the fit.
    """

    exponent: float
    r_squared: float
    first: int
    last: int

    def scalars(self) -> dict[str, float]:
        """The numbers by the names under which they are logged."""
        return {
            "power_law_exponent": self.exponent,
            "power_law_r_squared": self.r_squared,
            "power_law_first": float(self.first),
            "power_law_last": float(self.last),
        }


def entropy_rank(spectrum: Spectrum) -> float:
    """The exponential of the Shannon entropy of the normalised eigenvalues, from 1 to n.

    Eigenvalues at or below the noise floor are left out: as -p log p is steep at 0, n noise
    eigenvalues of size n eps lambda_max would add their own number times log(1/p). 0 for a kernel
    that has none above it.

    Raises:
      KernelInputError: the argument is no `Spectrum`.
    """
    _check_spectrum(spectrum)
    signal = spectrum.eigenvalues[spectrum.eigenvalues > spectrum.noise_floor]
    if not signal.size:
        return 0.0
    p = signal / signal[0]  # so that the sum neither over- nor underflows
    p = p / p.sum()
    p = p[p > 0]
    return float(np.exp(-np.sum(p * np.log(p))))


def power_law(spectrum: Spectrum, first: int = 1, last: int | None = None) -> PowerLaw:
    """Fits the exponent of the decay of the eigenvalues.

    Args:
      spectrum: of the kernel.
      first: the first rank to fit, from 1. The largest eigenvalue often stands apart (the mean of
        the outputs): first=2 leaves it out.
      last: the last rank; by default, and at most, the last one above the noise floor, below
        which the slope would be that of rounding errors.

    Raises:
      KernelInputError: first is below 1, or last below first; or the first argument is no
        `Spectrum`.
    """
    _check_spectrum(spectrum)
    first = whole_number("first", first, "ranks 1 <= first <= last")
    if last is not None:
        last = whole_number(
            "last", last, f"ranks 1 <= first <= last, or None; first={first}", least=first
        )
    rank = spectrum.numerical_rank
    last = rank if last is None else min(last, rank)
    if last - first < 2:
        return PowerLaw(math.nan, math.nan, first, last)
    x = np.log(np.arange(first, last + 1))
    y = np.log(spectrum.eigenvalues[first - 1 : last])
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    variance = float(y @ y)
    # Equal eigenvalues differ by rounding, which has no slope worth a coefficient.
    if variance <= len(y) * (len(y) * 4 * np.finfo(np.float64).eps) ** 2:
        return PowerLaw(0.0, math.nan, first, last)
    return PowerLaw(-slope, 1 - float(np.sum((y - slope * x) ** 2)) / variance, first, last)


def _check_spectrum(spectrum: Any) -> None:
    expected = "the Spectrum that kernel_spectrum(kernel) returns"
    check_type("spectrum", spectrum, Spectrum, expected)
