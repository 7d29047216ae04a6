"""From a kernel to its eigenvalues, condition number and what follows from them."""

from ntk_train.spectrum.eigen import Spectrum as Spectrum
from ntk_train.spectrum.eigen import kernel_spectrum as kernel_spectrum
