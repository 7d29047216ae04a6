"""When a hook runs: every so many steps, on given steps, every so many seconds."""

import math
import time
from collections.abc import Collection

from ntk_train._arguments import check_type, real_number, whole_number
from ntk_train.errors import KernelInputError


class Schedule:
    """Decides at each step of a loop, skipped and repeated steps included, whether to run.

    A step that was skipped over counts as reached by the next call, so that a loop which calls
    only now and then misses nothing. A step that ran does not run again.

    Args:
      every_steps: run at every multiple of this, step 0 included.
      on_steps: run at each of these steps.
      every_secs: run at the first call, and whenever so many seconds have passed since a run.
        They count from when its call returned, as the first may take longer to trace its program.
      last_step: run at this step too, whatever the others say.

    Raises:
      KernelInputError: no rule is given, or one that is not positive, or steps that are no whole
        numbers.
    """

    def __init__(
        self,
        *,
        every_steps: int | None = None,
        on_steps: Collection[int] = (),
        every_secs: float | None = None,
        last_step: int | None = None,
    ) -> None:
        if every_steps is not None:
            expected = "a positive number of steps, or None to switch this rule off"
            every_steps = whole_number("every_steps", every_steps, expected)
        if every_secs is not None:
            expected = "a positive number of seconds, or None to switch this rule off"
            every_secs = real_number("every_secs", every_secs, expected, above=0, or_infinite=True)
        expected = "the steps at which to run, as [0, 100, 1000]"
        check_type("on_steps", on_steps, Collection, expected)
        steps = {whole_number("on_steps", step, expected, least=0) for step in on_steps}
        if last_step is not None:
            steps.add(whole_number("last_step", last_step, "a step, or None", least=0))
        if every_steps is None and not steps and every_secs is None:
            msg = "The hook would never run: give every_steps, on_steps or every_secs."
            raise KernelInputError(msg)
        self._every_steps = every_steps
        self._every_secs = every_secs
        self._on_steps = steps
        self._previous: int | None = None
        self._last_run: tuple[int, float] | None = None

    def due(self, step: int, t: float | int | None = None, rests_until: float = -math.inf) -> bool:
        """Whether to run now.

        Args:
          step: of the loop.
          t: the time in seconds, by default `time.time()`.
          rests_until: the time before which `every_steps` and `every_secs` are left out.
        """
        t = time.time() if t is None else t
        previous = self._previous
        if previous is None or step < previous:  # the start, or a loop that was set back
            previous = step - 1
        self._previous = step
        if self._last_run is not None and self._last_run[0] == step:
            return False
        due = any(previous < on_step <= step for on_step in self._on_steps)
        if t >= rests_until:
            if self._every_steps is not None:
                due |= step // self._every_steps > previous // self._every_steps
            if self._every_secs is not None:
                due |= self._last_run is None or t - self._last_run[1] >= self._every_secs
        if due:
            self._last_run = (step, t)
        return due

    def held_up(self, seconds: float) -> None:
        """The call that ran last has returned after so many seconds."""
        if self._last_run is not None:
            step, t = self._last_run
            self._last_run = (step, t + seconds)
