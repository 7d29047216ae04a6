"""How a run ends that has not reached its last step, and the exit code of the program for each.

    0    finished, or stopped by its kernel as the config asks
    1    refused: an argument, the config, the data or the folder is at fault; no step was made
    3    diverged: the loss or a parameter became NaN or infinite
    74   not saved: the disk is full, say; `EX_IOERR` of sysexits.h
    75   interrupted by SIGTERM or SIGINT, and saved; `EX_TEMPFAIL`, "try again"

A second signal ends the program at once, as the system does: 143 or 130 in a shell.
"""

import errno
from collections.abc import Mapping
from typing import ClassVar

from ntk_train.errors import NTKError


class UnfinishedRunError(NTKError):
    """A run ended before its last step; the text says what is kept of it.

    Attributes:
      exit_code: of the program.
    """

    exit_code: ClassVar[int] = 1


class NonFiniteLossError(UnfinishedRunError, ArithmeticError):
    """Training diverged: the loss or a parameter became NaN or infinite."""

    exit_code = 3


class NotSavedError(UnfinishedRunError, OSError):
    """A checkpoint or what belongs to it could not be written."""

    exit_code = 74


class InterruptedRunError(UnfinishedRunError):
    """A signal asked to end the run, which was saved."""

    exit_code = 75


def diverged(
    step: int,
    *,
    rate: float,
    loss: float | None,
    scalars: Mapping[str, float],
    measured_at: int | None,
    saved: str,
    checkpoint: int | None,
) -> str:
    """What there is to say of a run that diverged.

    Args:
      step: the one whose loss or parameters were not finite.
      rate: the learning rate of that step.
      loss: the last finite mean of the training loss, if there is one.
      scalars: of the last kernel, by name.
      measured_at: its step; None if there was none.
      saved: where the last finite state is.
      checkpoint: the step of the last checkpoint, if there is one.
    """
    shown = [f"{name} {scalars[name]:.3g}" for name in _TELLING if name in scalars]
    kernel = f" The kernel at step {measured_at}: {', '.join(shown)}." if shown else ""
    before = "" if loss is None else f" The training loss was {loss:.4g} before."
    on = "starts again from step 0" if checkpoint is None else f"goes on from step {checkpoint}"
    return (
        f"The loss or a parameter became NaN or infinite in step {step}, at a learning rate of "
        f"{rate:.3g}.{before}{kernel} The last finite state {saved}, to be looked at. The same "
        f"command {on}, and would come to the same end: lower config.optimizer.learning_rate or "
        "lengthen config.optimizer.warmup_steps, with --resume=force."
    )


_TELLING = ("lambda_max", "condition_number", "critical_learning_rate", "learning_rate_ratio")


def is_out_of_space(error: BaseException) -> bool:
    """Whether a file could not be written because of its size: disk, quota, or limit on files."""
    return isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
    )


def in_short(error: BaseException) -> str:
    """The type of an error and the first line of its text, of which libraries write hundreds."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return f"{type(error).__name__}: {text[:300]}{'...' if len(text) > 300 else ''}"
