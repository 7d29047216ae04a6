"""Linear algebra on the host with one thread, so that it does not fight with the training steps.

On a CPU whose cores are busy with a training step, the threads of OpenBLAS wait for each other by
spinning: the eigenvalues and alignments of a kernel of 64 examples then took 0.35 s of both of two
cores, and with one thread 0.003 s. (Kernels of 640 rows: 5 to 14 s, and 0.5 s.)
"""

import contextlib
import threading
import time
from collections.abc import Iterator

# The limit holds for the whole process: two that overlap would restore each other's.
_LOCK = threading.Lock()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[float]:
    """Within it BLAS has one thread, if threadpoolctl is installed; otherwise it is as it was.

    Yields:
      How many seconds it waited for another that is within, which are no work of the caller's.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        yield 0.0
        return
    start = time.perf_counter()
    with _LOCK:
        waited = time.perf_counter() - start
        with threadpool_limits(1, user_api="blas"):
            yield waited
