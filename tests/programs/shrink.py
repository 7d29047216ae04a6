"""Makes a failing program smaller, greedily: fewer nodes, and lower choices."""

import dataclasses
import time
from collections.abc import Callable, Iterator

from tests.programs.build import Text, write
from tests.programs.choices import Program


def shrink(
    program: Program, still_fails: Callable[[Text], bool], seconds: float = 60.0
) -> tuple[Program, Text]:
    """The smallest program that was found to fail in the same way, within some seconds."""
    stop = time.monotonic() + seconds
    best, text = program, write(program)
    tried = {text.definition()}
    improved = True
    while improved and time.monotonic() < stop:
        improved = False
        for smaller in _smaller(best):
            if time.monotonic() > stop:
                break
            new = write(smaller)
            if _size(new) >= _size(text) or new.definition() in tried:
                continue
            tried.add(new.definition())
            if still_fails(new):
                best, text, improved = smaller, new, True
                break
    return best, text


def _size(text: Text) -> tuple:
    entries = sum(map(len, (str(text.leaves), str(text.inputs))))
    return text.body.count("\n"), len(text.leaves), len(text.body) + entries, text.native


def _smaller(program: Program) -> Iterator[Program]:
    """Programs that are simpler in one respect, the largest steps first."""
    nodes = program.nodes
    for i in reversed(range(len(nodes))):
        yield dataclasses.replace(program, nodes=nodes[:i] + nodes[i + 1 :])
    for numbers in _lowered(program.tail):
        yield dataclasses.replace(program, tail=numbers)
    for numbers in _lowered(program.head):
        yield dataclasses.replace(program, head=numbers)
    for i in reversed(range(len(nodes))):
        for numbers in _lowered(nodes[i]):
            yield dataclasses.replace(program, nodes=(*nodes[:i], numbers, *nodes[i + 1 :]))


def _lowered(numbers: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Cut off, one left out, or one lowered."""
    for length in (0, 2, 4, 8):
        if length < len(numbers):
            yield numbers[:length]
    for i in range(len(numbers)):
        yield numbers[:i] + numbers[i + 1 :]
    for i, number in enumerate(numbers):
        for lower in dict.fromkeys((0, 1, 2, 3, number // 2)):
            if lower < number:
                yield (*numbers[:i], lower, *numbers[i + 1 :])
