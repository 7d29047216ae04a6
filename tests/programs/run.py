"""One seed from its program to a result, and the shrunken failure."""

import dataclasses
import itertools
import traceback

from tests.programs.build import Text, write
from tests.programs.check import Result, all_calls, check, one_call
from tests.programs.choices import draw
from tests.programs.shrink import shrink

ATTEMPTS = 20
STRIDE = 2**32  # of a seed to those of its redrawn programs


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a seed.

    Attributes:
      seed: of the program, after those that were rejected.
      result: of its check.
      rejected: reasons why programs were redrawn.
      text: the program, shrunken if it failed and that was asked for.
      broken: tracebacks of programs of which f itself, or its Jacobian, could not be computed.
    """

    seed: int
    result: Result
    rejected: tuple[str, ...]
    text: Text
    broken: tuple[str, ...] = ()


def run(seed: int, *, every_call: bool, shrink_seconds: float = 0.0) -> Outcome:
    """Checks the program of a seed; a rejected one is redrawn."""
    rejected, broken = [], []
    calls_of = all_calls if every_call else one_call
    for attempt in itertools.count():
        own = seed + attempt * STRIDE
        try:
            text = write(draw(own))
            result = check(text.case(), calls_of(own))
        except Exception:
            broken.append(f"seed {own}:\n{traceback.format_exc()}")
            result = Result("rejected", why="broken")
        if result.verdict != "rejected" or attempt == ATTEMPTS:
            break
        rejected.append(result.why)
    if result.failed and shrink_seconds:
        text = _shrunken(own, result, shrink_seconds)
    return Outcome(own, result, tuple(rejected), text, tuple(broken))


def _shrunken(seed: int, result: Result, seconds: float) -> Text:
    calls = result.calls[:1]

    def still_fails(text: Text) -> bool:
        try:
            new = check(text.case(), calls)
        except Exception:  # f itself
            return False
        return new.verdict == result.verdict and _kind(new) == _kind(result)

    return shrink(draw(seed), still_fails, seconds)[1]


def _kind(result: Result) -> str:
    return result.why.partition(":")[0]
