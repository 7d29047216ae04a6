"""How much of a run's time its measurements take, and a bound on it.

    share = (seconds of all measurements) / (seconds since the first one began)

The seconds of a measurement are all that it takes, on the device and on the host, beside the loop
or in its way, whether it comes out or fails; so the share is an upper bound of what the run is
slowed down by. Tracing and compilation are no part of it: they come once, and are logged apart.

The next measurement begins when the share would be within the bound at its end, if it took twice as
long as the slowest one so far; and at the earliest (seconds of the last) / bound after the last, so
that what a pause of the measurements has saved is not spent at once.
"""

import contextlib
import math
import threading
import time
from collections.abc import Iterator

_MARGIN = 2.0  # by how much the next may be slower than all before, and stay within the bound


class Overhead:
    """The account of the time of one hook, or of several that run at the same steps.

    Args:
      max_overhead: of the run's time; None for no bound.
    """

    def __init__(self, max_overhead: float | None) -> None:
        self._max_overhead = max_overhead
        self._first: float | None = None  # when the first one began, by the loop's clock
        self._begun = -math.inf  # when the last one did
        self._rests_until = -math.inf
        self._started: float | None = None  # when the first measurement began
        self._spent = 0.0  # seconds in those that have ended
        self._under_way = 0
        self._together = 0.0  # seconds of those that are under way together, and their fellows
        self._slowest = 0.0  # seconds of the slowest that were under way together
        self._lock = threading.Lock()  # measurements end on threads of their own

    @property
    def rests_until(self) -> float:
        """Before which time, by the loop's clock, the bound allows no other measurement."""
        if self._max_overhead is None:
            return -math.inf
        # While one is under way it is not known how long it takes.
        return math.inf if self._under_way else self._rests_until

    def begin(self, t: float) -> None:
        """A measurement begins, at a time by the loop's clock."""
        with self._lock:
            self._started = self._started or time.perf_counter()
            self._under_way += 1
            self._first = t if self._first is None else self._first
            self._begun = t

    def end(self, seconds: float) -> None:
        """It has ended, after so many seconds of work."""
        with self._lock:
            self._spent += seconds
            self._together += seconds
            self._under_way -= 1
            if self._under_way == 0:
                self._slowest = max(self._slowest, self._together)
                if self._max_overhead is not None:
                    self._rests_until = self._next(self._max_overhead)
                self._together = 0.0

    def _next(self, bound: float) -> float:
        """When the next may begin, by the loop's clock."""
        assert self._first is not None
        next_one = _MARGIN * self._slowest
        within = self._first + (self._spent + next_one) / bound - next_one
        return max(within, self._begun + self._together / bound)

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
