"""A program as plain integers, one tuple for each of its nodes.

What an integer means depends on what was built before it, but any integers make a valid program,
and smaller ones a simpler one: to shrink is to drop nodes and to lower integers.
"""

import dataclasses
import random
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Program:
    """The choices of one program.

    Attributes:
      head: of the inputs and of what the parameters hold beside weights.
      nodes: of each operation.
      tail: of the outputs.
    """

    head: tuple[int, ...]
    nodes: tuple[tuple[int, ...], ...]
    tail: tuple[int, ...]


def draw(seed: int) -> Program:
    """The program of a seed."""
    rng = random.Random(seed)
    some = lambda n: tuple(rng.randrange(2**16) for _ in range(n))
    return Program(some(24), tuple(some(32) for _ in range(rng.randint(2, 8))), some(24))


class Choices:
    """Reads choices one by one; after the last one each is 0, the simplest."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = iter(numbers)

    def below(self, n: int) -> int:
        """An integer from 0 to n - 1."""
        return next(self._numbers, 0) % n

    def pick(self, options: Sequence):
        """One of some options, of which the first is the simplest."""
        return options[self.below(len(options))]

    def chance(self, percent: int) -> bool:
        """True in so many of 100 cases."""
        return self.below(100) >= 100 - percent

    def weighted(self, options: Sequence[tuple]):
        """One of some pairs (option, weight)."""
        at = self.below(sum(weight for _, weight in options))
        for option, weight in options:
            at -= weight
            if at < 0:
                return option
        raise AssertionError
