"""What went wrong in a hook: counted, logged, survived."""

import logging
import threading
from typing import Any

from ntk_train.monitor.switches import TracedError

_log = logging.getLogger(__name__)


def out_of_memory(error: BaseException) -> bool:
    """Whether XLA says that it could not get the memory, in compilation or at run time."""
    return "RESOURCE_EXHAUSTED" in str(error)


class DonatedError(RuntimeError):
    """Memory ran out, and the parameters are no longer there to try again with less.

    It was counted when memory ran out, and the next measurement takes less: no reason to give up.
    """

    def __init__(self) -> None:
        super().__init__("memory ran out, and params had been donated when that showed")


class Failures:
    """Counts failures of measurements and of writing; of use from several threads.

    Attributes:
      count: of all failures.
      name: of the hook, for the messages.

    Args:
      name: of the hook.
      max_in_a_row: after so many failed measurements in a row the hook gives up.
    """

    def __init__(self, name: str, max_in_a_row: int) -> None:
        self.name = name
        self.count = 0
        self._max_in_a_row = max_in_a_row
        self._in_a_row = 0
        self._said: set[str] = set()
        self._lock = threading.Lock()

    @property
    def gave_up(self) -> bool:
        """Whether there were too many in a row."""
        return self._in_a_row >= self._max_in_a_row

    def success(self) -> None:
        """A measurement came out."""
        self._in_a_row = 0

    def of_measurement(self, step: Any, error: Exception) -> None:
        """A measurement did not come out."""
        if isinstance(error, TracedError):
            self.of_writing("The call", error)
            return
        if not isinstance(error, DonatedError):
            with self._lock:
                self.count += 1
                self._in_a_row += 1
        remedy = ""
        if out_of_memory(error):
            remedy = " Out of memory: use fewer probe inputs, outputs='trace' or a lower precision."
        _log.warning(
            "No kernel at step %s in %s (failure %d, training goes on): %s: %s%s",
            _text_of(step),
            self.name,
            self.count,
            type(error).__name__,
            error,
            remedy,
            exc_info=error if self.count == 1 and error.__traceback__ else None,
        )
        if self.gave_up:
            _log.warning("The hook gives up after %d failures in a row.", self._max_in_a_row)

    def of_memory(self, step: Any, budget: float, error: Exception) -> None:
        """Memory ran out, and the kernel is to be tried again with less of it."""
        with self._lock:
            self.count += 1
        _log.warning(
            "Out of memory at step %s in %s (failure %d, training goes on): the kernel is compiled "
            "anew with blocks of at most %.3g MB. %s: %s",
            step,
            self.name,
            self.count,
            budget / 1e6,
            type(error).__name__,
            error,
        )

    def of_writing(self, kind: str, error: Exception) -> None:
        """Something could not be written, or decided; said once for each kind."""
        with self._lock:
            self.count += 1
            first = kind not in self._said
            self._said.add(kind)
        if first:
            _log.warning(
                "%s of %s failed, training goes on: %s: %s",
                kind,
                self.name,
                type(error).__name__,
                error,
            )


def _text_of(step: Any) -> str:
    """A step as text, which a counter on the device has no longer when it has been donated."""
    try:
        return str(step)
    except Exception:
        return f"<{type(step).__name__} without a value>"
