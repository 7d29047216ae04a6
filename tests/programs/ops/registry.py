"""The table of operations: each writes one or more lines of a program."""

import dataclasses
from collections.abc import Callable

from tests.programs.writer import Writer


@dataclasses.dataclass(frozen=True)
class Operation:
    """How to write an operation.

    Attributes:
      write: from a writer to nothing; what it writes ends with a new value.
      weight: how often it is drawn, in relation to others.
      native: whether its text is right with an axis of examples in front of each value.
      inner: whether it may stand in the body of a scan, a branch or a transformed function.
    """

    write: Callable[[Writer], object]
    weight: int
    native: bool
    inner: bool

    @property
    def name(self) -> str:
        return self.write.__name__.rstrip("_").replace("_", " ")


OPERATIONS: list[Operation] = []


def operation(weight: int = 10, *, native: bool = True, inner: bool = True) -> Callable:
    """A decorator that registers an operation."""

    def register(write: Callable[[Writer], object]) -> Callable[[Writer], object]:
        OPERATIONS.append(Operation(write, weight, native, inner))
        return write

    return register


def write_one(writer: Writer, *, inner: bool = False) -> None:
    """Writes one operation of the writer's choice; what is large is summed to something small."""
    allowed = [
        (o, o.weight)
        for o in sorted(OPERATIONS, key=lambda o: (_ORDER.index(o.write.__module__), 0))
        if (o.native or not writer.native) and (o.inner or not inner)
    ]
    operation = writer.choices.weighted(allowed)
    writer.features.add(operation.name)
    operation.write(writer)
    while writer.values[-1].size > LARGEST:
        writer.let(f"{writer.values[-1].name}.sum(-1)")


LARGEST = 60
_ORDER = [
    f"tests.programs.ops.{family}"
    for family in ("elementwise", "layers", "views", "lookups", "complex_numbers", "control")
]
