"""How far a long kernel has come, on the standard error."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ntk_train._arguments import yes_or_no


class Progress(NamedTuple):
    """How far a kernel has come.

    Attributes:
      done: tiles that are written, those of earlier runs too.
      tiles: of the whole kernel.
      entries_per_second: of this run, the mirrored ones too; 0 before its first tile.
      seconds_left: about, infinite before the first tile of this run.
    """

    done: int
    tiles: int
    entries_per_second: float
    seconds_left: float


def shown(progress: Any) -> Callable[[Progress], None]:
    """What is called after each tile."""
    if callable(progress):
        return progress
    if not yes_or_no("progress", progress, "True, False, or a function of a Progress"):
        return lambda _: None
    last = [-math.inf]

    def show(now: Progress) -> None:
        # A line of its own each half minute where the output is no terminal.
        live, time_now = sys.stderr.isatty(), time.monotonic()
        finished = now.done == now.tiles
        if not live and not finished and time_now - last[0] < 30:
            return
        last[0] = time_now
        text = f"kernel: {now.done} of {now.tiles} tiles"
        if now.entries_per_second:
            text += f", {now.entries_per_second:.3g} entries/s, {now.seconds_left:.0f} s left"
        end = "\n" if finished or not live else ""
        sys.stderr.write(f"\r{text}\x1b[K{end}" if live else f"{text}{end}")
        sys.stderr.flush()

    return show
