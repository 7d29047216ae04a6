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

from ntk_train.monitor.schedule import Schedule


class Overhead:
    """The account of the time of one hook, or of several that run at the same steps.

    Args:
      schedule: rests while a measurement is under way and after it, if there is a bound.
      max_overhead: of the run's time; None for no bound.
    """

    def __init__(self, schedule: Schedule, max_overhead: float | None) -> None:
        self._schedule = schedule
        self._max_overhead = max_overhead
        self._started: float | None = None  # when the first measurement began
        self._spent = 0.0  # seconds in those that have ended
        self._under_way = 0
        self._rests = 0  # that followed a measurement
        self._together = 0.0  # seconds of those that are under way together, and their fellows
        self._lock = threading.Lock()  # measurements end on threads of their own

    def begin(self) -> None:
        """A measurement begins."""
        with self._lock:
            self._started = self._started or time.perf_counter()
            self._under_way += 1
            if self._max_overhead is not None:
                self._schedule.rest(math.inf)  # until it is known how long it took

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
                    self._schedule.rest(owed / self._max_overhead)
                    self._rests += 1
                self._together = 0.0

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Measurements that begin within it count as one, whichever ends first."""
        self.begin()
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
