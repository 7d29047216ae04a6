"""Where the numbers of a run go: event files by clu, or by tensorboardX where that is not there.

clu imports TensorFlow, which some machines do not have. Both write the same tags.
"""

import contextlib
import importlib.util
import logging
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from ntk_train.monitor import tensorboard_writer, write_layout
from ntk_train.train.endings import in_short

_log = logging.getLogger(__name__)


class NoWriter:
    """Drops what a writer is given; that of all processes but the first."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Any method of a writer."""
        return lambda *args, **kwargs: None  # noqa: ARG005


class SurvivingWriter:
    """A writer whose failures, of a full disk say, end no run: they are said once.

    Args:
      writer: with the methods of clu's `MetricWriter`.
    """

    def __init__(self, writer: Any) -> None:
        self._writer, self._failed = writer, False

    def __getattr__(self, name: str) -> Callable[..., None]:
        """A method of the writer."""
        method = getattr(self._writer, name)

        def survived(*args: Any, **kwargs: Any) -> None:
            try:
                method(*args, **kwargs)
            except Exception as error:
                if not self._failed:
                    said = in_short(error.__cause__ or error)  # clu's own text is no cause
                    _log.warning("%s of the event files failed: %s", name, said)
                self._failed = True

        return survived


class Speed:
    """Writes `steps_per_sec` and `uptime` now and then and at the end, as clu's `ReportProgress`.

    Args:
      num_train_steps: the last step.
      writer: of the run.
      every_secs: seconds between two reports.
    """

    def __init__(self, *, num_train_steps: int, writer: Any, every_secs: float) -> None:
        self._last, self._writer, self._every_secs = num_train_steps, writer, every_secs
        self._start = time.monotonic()
        self._mark: tuple[int, float] | None = None

    def __call__(self, step: int) -> None:
        """After each step; the first call starts the clock."""
        now = time.monotonic()
        first, since = self._mark = self._mark or (step, now)
        if step > first and (now - since > self._every_secs or step == self._last):
            scalars = {"steps_per_sec": (step - first) / (now - since), "uptime": now - self._start}
            self._writer.write_scalars(step, scalars)
            self._mark = step, now

    @contextlib.contextmanager
    def timed(self, name: str, **_: Any) -> Iterator[None]:  # noqa: ARG002
        """As of clu's, which says how long the parts of a run take."""
        yield


def has_clu() -> bool:
    """Whether clu and what it imports are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("clu", "tensorflow"))


def make_writer(workdir: pathlib.Path) -> Any:
    """A writer with the methods of clu's `MetricWriter`.

    Raises:
      ModuleNotFoundError: neither clu with TensorFlow nor tensorboardX is installed.
    """
    if not has_clu():
        return tensorboard_writer(workdir)
    from clu import metric_writers

    return metric_writers.create_default_writer(str(workdir))


def make_report(*, num_train_steps: int, writer: Any, every_secs: float) -> Any:
    """What reports a run's speed, called after each step; clu's `ReportProgress` or `Speed`."""
    if not has_clu():
        return Speed(num_train_steps=num_train_steps, writer=writer, every_secs=every_secs)
    from clu import periodic_actions

    return periodic_actions.ReportProgress(
        num_train_steps=num_train_steps, writer=writer, every_secs=every_secs
    )


def write_charts(writer: Any) -> None:
    """Writes the layout of TensorBoard's "Custom Scalars"; training goes on without it."""
    with _survived("The layout of the charts"):
        write_layout(writer)


def close(writer: Any) -> None:
    """Closes a writer; what it could not write any more ends no run, and hides no other error."""
    with _survived("What was logged last"):
        writer.close()


@contextlib.contextmanager
def _survived(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a full disk, say
        _log.warning("%s could not be written: %s", what, in_short(error))
