"""How much of a run's time its measurements take, and a bound on it.

    share = (seconds of all measurements) / (seconds since the first one began)

The seconds of a measurement are all that it takes, on the device and on the host, beside the loop
or in its way, whether it comes out or fails; so the share is an upper bound of what the run is
slowed down by.
"""

import contextlib
import math
import threading
import time
from collections.abc import Iterator


class Overhead:
    """The account of the time of one hook, or of several that run at the same steps.

    Args:
      max_overhead: of the run's time; None for no bound.
    """

    def __init__(self, max_overhead: float | None) -> None:
        self._max_overhead = max_overhead
        self._begun = -math.inf  # when the last one began, by the loop's clock
        self._rest = 0.0  # seconds that follow it
        self._started: float | None = None  # when the first measurement began
        self._spent = 0.0  # seconds in those that have ended
        self._under_way = 0
        self._rests = 0  # that followed a measurement
        self._together = 0.0  # seconds of those that are under way together, and their fellows
        self._lock = threading.Lock()  # measurements end on threads of their own

    @property
    def rests_until(self) -> float:
        """Before which time, by the loop's clock, the bound allows no other measurement."""
        if self._max_overhead is None:
            return -math.inf
        # While one is under way it is not known how long it takes.
        return math.inf if self._under_way else self._begun + self._rest

    def begin(self, t: float) -> None:
        """A measurement begins, at a time by the loop's clock."""
        with self._lock:
            self._started = self._started or time.perf_counter()
            self._under_way += 1
            self._begun = t

    def end(self, seconds: float) -> None:
        """It has ended, after so many seconds of work."""
        with self._lock:
            self._spent += seconds
            self._together += seconds
            self._under_way -= 1
            if self._under_way == 0:
                if self._max_overhead is not None:
                    # The first is owed before there was any time for it, and is made up for.
                    owed = self._together if self._rests else 2 * self._together
                    self._rest = owed / self._max_overhead
                    self._rests += 1
                self._together = 0.0

    @contextlib.contextmanager
    def together(self, t: float) -> Iterator[None]:
        """Measurements that begin within it count as one, whichever ends first."""
        self.begin(t)
        try:
            yield
        finally:
            self.end(0.0)

    def share(self, seconds: float) -> float | None:
        """The share of the time so far, with a measurement under way that has taken so long.

        None where no other has ended, as it is all there is then.
        """
        if not self._spent or self._started is None:
            return None
        return min(1.0, (self._spent + seconds) / (time.perf_counter() - self._started))
