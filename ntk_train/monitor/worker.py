"""One job at a time on a thread of the host, beside the training loop.

Jobs are done in the order in which they are given. While one is under way the next is not taken:
`start` waits. So no more than one kernel is ever held, what is written is in the order of the
steps, and which steps are measured does not depend on how fast the host is.
"""

import atexit
import functools
import logging
import threading
import time
import weakref
from collections.abc import Callable

_log = logging.getLogger(__name__)

# At the end of the interpreter, for a loop that did not close its hook.
_SECONDS_AT_EXIT = 60.0


class Worker:
    """Runs jobs one by one, each on a thread of its own that ends with it.

    There is nothing to shut down: between jobs there is no thread. A script that ends while a job
    is under way waits for it, as XLA may crash when the interpreter goes away below a computation.

    Args:
      name: of the threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        _workers().add(self)

    @property
    def idle(self) -> bool:
        """Whether no job is under way; True on the worker's own thread, which cannot wait."""
        thread = self._thread
        return thread is None or thread is threading.current_thread() or not thread.is_alive()

    def start(self, job: Callable[[], None]) -> float:
        """Starts a job, after the one under way, and returns the seconds that it waited for that.

        Args:
          job: handles its own exceptions.

        Raises:
          RuntimeError: the system has no thread left for it.
        """
        start = time.perf_counter()
        self.wait()
        waited = time.perf_counter() - start
        # A daemon: a writer that hangs must not keep the interpreter from ending.
        thread = threading.Thread(target=job, name=self._name, daemon=True)
        self._thread = thread  # before it runs, as it may ask whether its worker is idle
        thread.start()
        return waited

    def wait(self, timeout: float | int | None = None) -> bool:
        """Waits for the job under way, for so many seconds at most; returns whether it is done."""
        thread = self._thread
        if thread is not None and not self.idle:
            thread.join(timeout)
        return self.idle


@functools.cache
def _workers() -> "weakref.WeakSet[Worker]":
    """All that are alive. Made by the first, after JAX's own exit handlers, which run later then.

    One for all, as the interpreter keeps what is registered with it for ever.
    """
    workers: weakref.WeakSet[Worker] = weakref.WeakSet()
    atexit.register(_finish, workers)
    return workers


def _finish(workers: "weakref.WeakSet[Worker]") -> None:
    deadline = time.monotonic() + _SECONDS_AT_EXIT
    for worker in list(workers):
        if not worker.wait(max(0.0, deadline - time.monotonic())):
            _log.warning("What the hook had under way was lost; close() the hook before the end.")
