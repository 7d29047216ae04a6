"""SIGTERM and SIGINT as a question that the loop asks after each step.

An exception that a signal handler raises lands wherever the interpreter happens to be: within a
callback of the garbage collector it is printed and dropped, and within a write it leaves half a
file. So the handlers only note the signal; the loop ends its step, saves, and ends the run.
"""

import os
import signal
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Notes the signals that ask to end a run; a context manager, of the main thread.

    Attributes:
      signal: the one that has come, None before.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        """Takes the handlers' place; returns itself."""
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Puts the handlers before it back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.signal = signal.Signals(number)
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)  # a second one ends the program at once
        # Not `print`, which refuses to be entered again from within itself.
        text = f"\n{self.signal.name}: the run ends after this step, with a checkpoint.\n"
        os.write(2, text.encode())
