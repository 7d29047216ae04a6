r"""By how much linearised training from a Lanczos run may be off.

    a' = h (b - A a),    a_m = ||b|| Q y(t),    y = T^-1 (I - exp(-h t T)) e_1
    A Q = Q T + beta q e_m^T,    so for e = a - a_m    e' = -h A e - h beta ||b|| q y_m(t)
    and    ||e|| <= h beta ||b|| int_0^t |y_m(s)| ds

as no component of e grows by itself (M. Botchev, V. Grimm, M. Hochbruck, *Residual, Restarting, and
Richardson Iteration for the Matrix Exponential*, SIAM J. Sci. Comput. 35, 2013, section 2, on the
residual of such an equation). y_m never changes its sign: with every second component of the basis
negated, exp(-t T) has no negative entry, as the off-diagonal of T is positive. So the integral of
its magnitude is the magnitude of its integral, a function of the eigenvalues of T:

    h int_0^t (1 - exp(-h s theta)) / theta ds  =  (h t)^2 (x - 1 + exp(-x)) / x^2,    x = h t theta

Gradient descent is the same with sums over its steps, where no diagonal entry of I - eta h T is
negative; else the steps are added up one by one.

>>> import numpy as np
>>> run = Tridiagonal(np.array([1.0]), np.array([]), beta=0.1, exhausted=False)
>>> round(unresolved(run, time=1.0, curvature=1.0, rate=None), 4)  # 0.1 (1 - 1 + exp(-1))
0.0368
"""

import math

import numpy as np

from ntk_train.spectrum.lanczos import Tridiagonal
from ntk_train.spectrum.linearised import response

_MOST_STEPS = 10_000  # that are added up one by one


def unresolved(run: Tridiagonal, time: float | int, curvature: float, rate: float | None) -> float:
    """A bound of ||a - a_m|| / ||b||, of what more products would change.

    Infinite where none is known: at infinite times, above the critical learning rate, and after
    more than 10 000 steps near it.

    Args:
      run: from b.
      time: as in `response`, as are curvature and rate.
      curvature: h.
      rate: eta of gradient descent, or None.
    """
    if run.exhausted or time == 0 or rate == 0:
        return 0.0
    theta, vectors = run.eigh()
    theta = np.maximum(theta, 0)
    if not math.isfinite(time) or (rate is not None and rate * curvature * theta[-1] > 2):
        return math.inf
    last = vectors[-1] * vectors[0]  # last @ g(theta) is the last entry of g(T) e_1
    if rate is None or rate * curvature * np.max(run.diagonal) <= 1:
        return run.beta * abs(float(last @ _integral(theta, time, curvature, rate)))
    if time > _MOST_STEPS:
        return math.inf
    gains = (response(theta, step, curvature, rate).gain for step in range(int(time)))
    return run.beta * rate * curvature * sum(abs(float(last @ gain)) for gain in gains)


def _integral(
    theta: np.ndarray, time: float | int, curvature: float, rate: float | None
) -> np.ndarray:
    """`response(...).gain` integrated over the time, or summed over steps, times curvature."""
    if rate is None:
        total = time * curvature
        series = [total**i / math.factorial(i) for i in range(2, 7)]
    else:
        total = time * rate * curvature
        series = [(rate * curvature) ** i * math.comb(int(time), i) for i in range(2, 7)]
    is_small = total * theta < 1e-2  # where the difference cancels
    safe = np.where(is_small, 1, theta)
    learned = response(safe, time, curvature, rate).learned
    return np.where(
        is_small, np.polynomial.Polynomial(series)(-theta), (total * safe - learned) / safe**2
    )


def rounded(run: Tridiagonal, time: float | int, curvature: float, rate: float | None) -> float:
    """A bound of the relative change of a by the rounding of products with A, in first order.

    ||e|| <= h noise int_0^t exp(-h (t - s) lambda_min) ||a(s)||, and ||a(s)|| grows. lambda_min is
    known where the Krylov space is exhausted, and 0 else.
    """
    total = time * curvature * (1 if rate is None else rate)
    least = max(float(run.eigh()[0][0]), 0.0)
    x = least * curvature * (0 if rate is None else rate)
    if run.exhausted and least and x <= 1:
        total = float(response(np.array([least]), time, curvature, rate).gain[0])
    return run.noise * total if run.noise else 0.0
