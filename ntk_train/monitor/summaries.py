"""A measurement as what a metric writer takes: scalars, a histogram, pictures and texts by tag.

What fails to be written is counted and takes nothing else along.

Pictures take a hundred times as long as the numbers, and TensorBoard shows ten of a run. So they
are drawn of the first, second, third, fifth, ninth, ... measurement, and at the end of the last.
"""

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ntk_train.monitor.dashboard import write_layout
from ntk_train.monitor.failures import Failures
from ntk_train.monitor.history import History
from ntk_train.monitor.measure import Measurement
from ntk_train.monitor.tags import tag_of, tagged
from ntk_train.monitor.worker import Worker
from ntk_train.monitor.writers import Kind, MetricWriter, method_of
from ntk_train.spectrum import Convention

_log = logging.getLogger(__name__)

# After a measurement that took too long; most writers need less than one.
_SECONDS_TO_FLUSH = 10.0


def _pictures_of(*args: Any) -> Mapping[str, np.ndarray]:
    from ntk_train.monitor.pictures import pictures_of  # matplotlib may not be there

    return pictures_of(*args)


class Summaries:
    """Writes what a hook finds.

    Args:
      writer: with methods of clu's `MetricWriter`, from `as_metric_writer`; what it has no method
        for is not written. None writes nothing.
      prefix: of the tags.
      pictures: whether to draw.
      hparams: whether to write what a run has once: the convention as hparams too, and the layout
        of TensorBoard's tab "Custom Scalars".
      failures: where failures are counted.
    """

    def __init__(
        self,
        writer: MetricWriter | None,
        prefix: str,
        *,
        pictures: bool,
        hparams: bool,
        failures: Failures,
    ) -> None:
        self._writer = writer
        self._prefix = prefix
        self._pictures = pictures and importlib.util.find_spec("matplotlib") is not None
        if pictures and not self._pictures:
            _log.info("No pictures of the kernel: pip install 'ntk_train[plot]' for them.")
        self._hparams = hparams
        self._failures = failures
        self._announced: Convention | None = None
        self._measured = 0  # measurements written so far
        self._undrawn: Measurement | None = None  # the last one, if it has no pictures
        self._history = History()
        self._open = True  # False from a close that was too early until the next measurement

    def write(
        self,
        found: Measurement,
        own: Mapping[str, float],
        history: History,
    ) -> None:
        """Writes a measurement, and its convention where that is new.

        Args:
          found: the measurement.
          own: numbers of the hook itself.
          history: with this measurement in it.
        """
        if self._measured == 0 and self._hparams and self._open:
            self._survive("write_summaries", lambda: write_layout(self._writer, self._prefix))
        step, spectrum = found.step, found.spectrum
        numbers = tagged(self._prefix, found.diagnostics) | self._tags(own)
        self._attempt("write_scalars", lambda write: write(step, numbers))
        signal = spectrum.eigenvalues[spectrum.eigenvalues > spectrum.noise_floor]
        if signal.size:
            logs = self._tags({"log10_eigenvalues": np.log10(signal)})
            self._attempt("write_histograms", lambda write: write(step, logs))
        self._undrawn, self._history = found, history
        if self._measured & (self._measured - 1) == 0:  # 0 and the powers of two
            self._draw()
        self._measured += 1
        convention = found.diagnostics.convention
        if convention is not None and convention != self._announced:
            self.text(step, "convention", convention.describe())
            if self._hparams and self._announced is None:
                hparams = convention.hparams(self._prefix)
                self._attempt("write_hparams", lambda write: write(hparams))
            self._announced = convention

    def scalar(self, step: int, name: str, value: float) -> None:
        """Writes one number."""
        self._attempt("write_scalars", lambda write: write(step, self._tags({name: value})))

    def text(self, step: int, name: str, text: str) -> None:
        """Writes a text."""
        self._attempt("write_texts", lambda write: write(step, self._tags({name: text})))

    def finish(self) -> None:
        """Draws the last measurement, if it is not yet, and flushes the writer."""
        self._draw()
        self._flush()

    def abandon(self) -> None:
        """Flushes the writer, and drops what a late measurement would still write."""
        self._open = False
        if self._writer is None:
            return
        flushing = Worker("ntk-flush")  # as it may hang where the measurement does
        with contextlib.suppress(RuntimeError):  # the system has no thread left
            flushing.start(self._flush)
            flushing.wait(_SECONDS_TO_FLUSH)

    def reopen(self) -> None:
        """Writes again, as of a measurement that was begun after all."""
        self._open = True

    def _draw(self) -> None:
        found, self._undrawn = self._undrawn, None
        if found is None or not self._pictures:
            return

        def write_pictures(write: Callable[..., None]) -> None:
            drawn = self._tags(_pictures_of(found, found.labels, list(self._history)))
            if self._open:  # still, as pictures take a while
                write(found.step, drawn)

        self._attempt("write_images", write_pictures)

    def _flush(self) -> None:
        flush = method_of(self._writer, "flush")
        if flush is not None:
            self._survive("flush", flush)

    def _attempt(self, kind: Kind, use: Callable[[Callable[..., None]], None]) -> None:
        """Calls a function with a method of the writer, if it has it and may still write."""
        method = method_of(self._writer, kind)
        if method is not None and self._open:
            self._survive(kind, lambda: use(method))

    def _survive(self, kind: Kind, job: Callable[[], object]) -> None:
        try:
            job()
        except Exception as error:  # the writer is not ours, and training must go on
            self._failures.of_writing(kind, error)

    def _tags(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {tag_of(self._prefix, name): value for name, value in values.items()}
