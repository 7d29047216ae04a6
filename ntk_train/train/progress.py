"""What a run shows on the console: a table that grows, and how long it will take."""

import sys
import time
from collections.abc import Mapping
from typing import TextIO

from ntk_train.spectrum import Spectrum

_COLUMNS = (
    ("step", 7),
    ("loss", 9),
    ("test acc", 9),
    ("lambda_max", 11),
    ("lambda_min", 11),
    ("condition", 11),
    ("eff. rank", 10),
    ("time left", 10),
)


class Progress:
    """Prints one row for each measured step.

    On a terminal a line below the table shows steps per second and the time left between rows.

    Args:
      start_step: the step at which this run starts or resumes.
      num_train_steps: the last step.
      out: where to print, standard output by default.
      quiet: prints nothing, as of all processes but the first.
    """

    def __init__(
        self,
        *,
        start_step: int,
        num_train_steps: int,
        out: TextIO | None = None,
        quiet: bool = False,
    ) -> None:
        self._out = sys.stdout if out is None else out
        self._last = num_train_steps
        self._quiet = quiet
        self._live = self._out.isatty() and not quiet
        self._mark = (start_step, time.monotonic())

    def header(self) -> None:
        """Prints the names of the columns."""
        self._print("".join(name.rjust(width) for name, width in _COLUMNS))

    def note(self, text: str) -> None:
        """Prints a line of text."""
        self._print(text)

    def restart_clock(self, step: int) -> None:
        """Measures the speed from here on, without what came before."""
        self._mark = (step, time.monotonic())

    def tick(self, step: int) -> None:
        """Updates the line below the table; only on a terminal."""
        if self._live:
            speed = self._steps_per_second(step)
            note = f"  step {step}/{self._last}"
            if speed:
                note += f", {speed:.1f} steps/s, {self._time_left(step)} left"
            self._out.write(f"\r{note}\x1b[K")
            self._out.flush()

    def row(
        self,
        step: int,
        *,
        loss: float | None,
        evaluation: Mapping[str, float] | None,
        spectrum: Spectrum | None,
    ) -> None:
        """Prints a row; what was not measured at this step is shown as "-".

        Args:
          step: the number of updates made.
          loss: on the training batches since the last that was logged.
          evaluation: with "accuracy", on the test part.
          spectrum: of the kernel at this step.
        """
        cells = [
            str(step),
            _number(loss, ".4f"),
            _number(evaluation["accuracy"] if evaluation else None, ".2%"),
            *_spectrum_cells(spectrum),
            self._time_left(step),
        ]
        pairs = zip(cells, _COLUMNS, strict=True)
        self._print("".join(cell.rjust(width) for cell, (_, width) in pairs))

    def _print(self, line: str) -> None:
        clear = "\r\x1b[K" if self._live else ""
        if not self._quiet:
            print(f"{clear}{line}", file=self._out, flush=True)

    def _steps_per_second(self, step: int) -> float | None:
        first, since = self._mark
        return (step - first) / (time.monotonic() - since) if step > first else None

    def _time_left(self, step: int) -> str:
        if step >= self._last:
            return "done"
        speed = self._steps_per_second(step)
        return "-" if not speed else _duration((self._last - step) / speed)


def _spectrum_cells(spectrum: Spectrum | None) -> list[str]:
    if spectrum is None:
        return ["-"] * 4
    bound = ">= " if spectrum.condition_is_lower_bound else ""
    return [
        f"{spectrum.lambda_max:.3g}",
        f"{spectrum.lambda_min:.3g}",
        f"{bound}{spectrum.condition_number:.3g}",
        f"{spectrum.effective_rank:.2f}",
    ]


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
