"""By how much the kernels slow training down, as two runs with and without them would show.

    slowdown = (seconds of all steps) / (number of steps * seconds of a step beside no kernel) - 1

Seconds are wall-clock time from one log to the next, at which the loop waits for the device, with
the time that the loop waits for a kernel and without evaluations and checkpoints. A step is beside
a kernel if one was under way when its log interval began. The hook's `time_share` is another
number: what its kernels take on threads of their own, most of which costs the run nothing.
"""

import contextlib
import time
from collections.abc import Callable, Iterator


class Slowdown:
    """The account of a run's time.

    Attributes:
      busy: whether a kernel is under way; set after each log.

    Args:
      clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.busy = False
        self._clock = clock
        self._mark: tuple[int, float] | None = None  # the step and the time of the last log
        self._paused = 0.0  # seconds since then that do not count
        self._steps = {True: 0, False: 0}
        self._seconds = {True: 0.0, False: 0.0}

    def log(self, step: int) -> None:
        """All steps up to this one have been made; the first call starts the account."""
        now = self._clock()
        if self._mark is not None:
            begun, since = self._mark
            self._steps[self.busy] += step - begun
            self._seconds[self.busy] += now - since - self._paused
        self._mark, self._paused = (step, now), 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within does not count."""
        begun = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - begun

    @property
    def value(self) -> float | None:
        """The slowdown so far, 0.1 for 10 % more; None before there are steps of both kinds."""
        if not all(self._steps.values()) or self._seconds[False] <= 0:
            return None
        alone = self._seconds[False] / self._steps[False]
        return sum(self._seconds.values()) / (sum(self._steps.values()) * alone) - 1
