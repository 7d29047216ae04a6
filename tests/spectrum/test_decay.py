"""Entropy rank and power law, against constructed spectra and numpy's own fit."""

import math

import numpy as np
import pytest

from ntk_train import KernelInputError, kernel_spectrum
from ntk_train.spectrum import entropy_rank, power_law
from tests.spectrum.case import kernel_with


def spectrum_of(eigenvalues):
    return kernel_spectrum(np.diag(np.asarray(eigenvalues, float)))


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_entropy_rank_is_the_exponential_of_the_entropy(scale):
    eigenvalues = np.array([5.0, 3.0, 1.0, 0.5])
    p = eigenvalues / eigenvalues.sum()
    expected = math.exp(sum(-q * math.log(q) for q in p))
    assert entropy_rank(spectrum_of(scale * eigenvalues)) == pytest.approx(expected, rel=1e-12)


def test_entropy_rank_of_extremes():
    assert entropy_rank(spectrum_of(np.ones(7))) == pytest.approx(7)
    assert entropy_rank(spectrum_of([3.0, 0, 0])) == 1
    assert entropy_rank(spectrum_of([5.0])) == 1
    assert entropy_rank(spectrum_of(np.zeros(3))) == 0


def test_noise_adds_nothing_to_the_entropy_rank():
    low_rank = np.ones((200, 200), np.float32)  # one eigenvalue, and 199 of rounding
    assert entropy_rank(kernel_spectrum(low_rank)) == 1


def test_entropy_rank_is_at_least_the_participation_ratio():
    for seed in range(5):
        found = spectrum_of(np.random.default_rng(seed).exponential(size=9) ** 3)
        assert found.effective_rank <= entropy_rank(found) <= 9


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_the_exponent_of_an_exact_power_law(alpha, scale):
    fit = power_law(kernel_spectrum(scale * kernel_with(np.arange(1, 21.0) ** -alpha)))
    assert fit.exponent == pytest.approx(alpha, rel=1e-7)
    assert fit.r_squared == pytest.approx(1)
    assert (fit.first, fit.last) == (1, 20)


def test_the_fit_is_numpys_and_r_squared_the_squared_correlation():
    eigenvalues = np.sort(np.random.default_rng(0).exponential(size=12))[::-1]
    x, y = np.log(np.arange(3, 10)), np.log(eigenvalues[2:9])
    fit = power_law(spectrum_of(eigenvalues), first=3, last=9)
    assert fit.exponent == pytest.approx(-np.polyfit(x, y, 1)[0], rel=1e-10)
    assert fit.r_squared == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, rel=1e-10)


def test_the_fit_ends_at_the_noise_floor():
    eigenvalues = np.concatenate([np.arange(1, 11.0) ** -2, np.full(10, 1e-17)])
    fit = power_law(spectrum_of(eigenvalues))
    assert fit.last == 10
    assert fit.exponent == pytest.approx(2, rel=1e-10)


def test_where_there_is_nothing_to_fit():
    for eigenvalues in ([1.0], [2.0, 1.0], np.zeros(5)):
        fit = power_law(spectrum_of(eigenvalues))
        assert math.isnan(fit.exponent)
        assert math.isnan(fit.r_squared)
    flat = power_law(kernel_spectrum(kernel_with(np.full(9, 2.0))))
    assert flat.exponent == 0
    assert math.isnan(flat.r_squared)


@pytest.mark.parametrize("ranks", [(0, None), (4, 3)])
def test_ranks_that_are_no_range(ranks):
    with pytest.raises(KernelInputError, match="1 <= first <= last"):
        power_law(spectrum_of([3.0, 2, 1]), *ranks)
