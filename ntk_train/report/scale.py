"""Axes of a chart: from values to places, and where the ticks are."""

import dataclasses
import math

import numpy as np

_MOST_TICKS = 7


@dataclasses.dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, over `start` to `end` of the drawing.

    Attributes:
      low: the least value shown.
      high: the largest.
      start: the place of low.
      end: the place of high.
      log: whether it is logarithmic; then low is above 0.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: np.ndarray) -> np.ndarray:
        """Places of values; NaN where there is none."""
        with np.errstate(all="ignore"):
            if self.log:
                value = np.log(np.where(value > 0, value, np.nan)) - math.log(self.low)
                part = value / (math.log(self.high) - math.log(self.low))
            else:
                part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values from low to high."""
        return log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high)


def scale_of(
    values: np.ndarray, start: float, end: float, log: bool | None = None, zero: bool = False
) -> Scale:
    """An axis around values.

    Args:
      values: those to be shown; what is not finite, or not above 0 on a log axis, is not.
      start: as in `Scale`.
      end: as in `Scale`.
      log: None for a logarithmic axis where all are positive and differ by more than 20 times.
      zero: whether a linear axis begins at 0.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if log is None:
        log = bool(values.size and values.min() > 0 and values.max() > 20 * values.min())
    values = values[values > 0] if log else values
    if not values.size:
        return Scale(0.1 if log else 0.0, 1.0, start, end, log)
    low, high = float(values.min()), float(values.max())
    if log:
        margin = max((high / low) ** 0.05, 1.1) if math.isfinite(high / low) else 1e3
        return Scale(max(low / margin, 1e-300), min(high * margin, 1e300), start, end, True)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 0.5
    low = 0.0 if zero and low >= 0 else low - margin
    return Scale(low, high + margin, start, end)


def linear_ticks(low: float, high: float) -> list[float]:
    """At most seven multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / (_MOST_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, every so many, or 1, 2 and 5 times them on a short axis."""
    first, last = math.log10(low), math.log10(high)
    if last - first < 0.5:
        return linear_ticks(low, high)
    factors = (1, 2, 5) if last - first < 2 else (1,)
    every = max(1, math.ceil((last - first) / _MOST_TICKS))
    powers = range(math.floor(first / every) * every, math.floor(last) + 1, every)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
