"""The numbers of a run by step, in bounded memory, for pictures of curves."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


class History:
    """The scalars of the measurements so far, thinned out where they are many.

    When it is full, every second step is dropped, so that it always spans the whole run and the
    last step.

    Args:
      size: the most steps it holds.
    """

    def __init__(self, size: int = 512) -> None:
        self._size = size
        self._entries: list[tuple[int, Mapping[str, float]]] = []

    def __len__(self) -> int:
        """The number of steps held."""
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, float]]]:
        """Steps and their numbers by name."""
        return iter(self._entries)

    def append(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds the numbers of a step, by their names without a prefix."""
        entries = [*self._entries, (step, dict(scalars))]
        if len(entries) > self._size:
            entries = entries[-1::-2][::-1]
        self._entries = entries  # replaced as a whole: readers on other threads keep theirs

    def go_on_from(self, earlier: "History") -> None:
        """Puts the numbers of the run that this one continues before its own."""
        self._entries = [*earlier, *self._entries]

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one number, at the steps that have it."""
        points = [(step, scalars[name]) for step, scalars in self._entries if name in scalars]
        return [step for step, _ in points], [value for _, value in points]

    def names(self) -> list[str]:
        """The names of all numbers, in the order in which they first came."""
        return list(dict.fromkeys(name for _, scalars in self._entries for name in scalars))

    def to_dict(self) -> dict[str, np.ndarray]:
        """Plain arrays, for a checkpoint: steps [T], names [S], and values [T, S] in float64."""
        names = self.names()
        rows = [[scalars.get(name, math.nan) for name in names] for _, scalars in self]
        return {
            "steps": np.array([step for step, _ in self], np.int64),
            "names": np.array(names, np.str_),
            "values": np.array(rows, np.float64).reshape(len(self), len(names)),
        }

    @classmethod
    def from_dict(cls, arrays: Mapping[str, Any]) -> "History":
        """What `to_dict` wrote, without the numbers that are NaN, which no curve shows.

        Raises:
          KeyError: an entry is missing.
        """
        history = cls()
        for step, row in zip(arrays["steps"], arrays["values"], strict=True):
            named = zip(arrays["names"], row, strict=True)
            history.append(
                int(step),
                {str(name): float(value) for name, value in named if not math.isnan(value)},
            )
        return history
