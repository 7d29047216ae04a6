"""The thread beside the loop: in order, one job at a time, and nothing hangs."""

import atexit
import gc
import subprocess
import sys
import threading
import time
import weakref

from ntk_train.monitor.worker import Worker


def test_jobs_run_in_order_one_at_a_time_on_another_thread():
    worker, order, gate = Worker("test"), [], threading.Event()

    def first():
        gate.wait(10)
        order.append(("first", threading.current_thread().name))

    worker.start(first)
    assert not worker.idle
    assert not worker.wait(0.01)
    threading.Timer(0.1, gate.set).start()
    waited = worker.start(lambda: order.append(("second", threading.current_thread().name)))
    assert waited > 0.05
    assert worker.wait(10)
    assert order == [("first", "test"), ("second", "test")]
    assert worker.idle


def test_a_job_that_waits_for_its_own_worker_goes_on():
    worker, found = Worker("test"), []
    worker.start(lambda: found.append((worker.wait(), worker.idle)))
    assert worker.wait(10)
    assert found == [(True, True)]


def test_a_script_that_ends_waits_for_the_job_under_way():
    program = """
import time
from ntk_train.monitor.worker import Worker
worker = Worker("test")
worker.start(lambda: (time.sleep(0.5), print("done", flush=True)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "done\n", done.stderr
    assert done.returncode == 0


def test_a_job_that_hangs_does_not_keep_the_interpreter(monkeypatch):
    program = """
import threading
from ntk_train.monitor import worker
worker._SECONDS_AT_EXIT = 0.2
one = worker.Worker("test")
one.start(lambda: threading.Event().wait())
"""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0
    assert "was lost" in done.stderr
    assert time.monotonic() - start < 50


def test_the_interpreter_keeps_no_worker():
    Worker("first")
    registered = atexit._ncallbacks()
    worker = weakref.ref(Worker("second"))
    gc.collect()
    assert worker() is None
    assert atexit._ncallbacks() == registered
