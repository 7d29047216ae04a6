"""One thread of BLAS within, as many as before after it, whatever overlaps."""

import threading

import numpy as np
import pytest

from ntk_train.monitor.blas import one_blas_thread

threadpoolctl = pytest.importorskip("threadpoolctl")


def threads():
    return {
        library["filepath"]: library["num_threads"]
        for library in threadpoolctl.threadpool_info()
        if library["user_api"] == "blas"
    }


def test_overlapping_limits_restore_what_there_was():
    np.linalg.eigvalsh(np.eye(3))
    before, within = threads(), []

    def work():
        with one_blas_thread():
            within.append(set(threads().values()))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert within == [{1}] * 4
    assert threads() == before
