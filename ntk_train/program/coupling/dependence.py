"""On which examples of a batch each entry of an array depends.

A set of up to 7 examples is a byte, bit i for example i; its last bit says that the entry may
depend on others too, which nobody knows. An entry depends on the union of the set that the whole
array has and of one set for each axis, found at its index along that axis:

    x [3, 5], an example in each row              {0: [1, 2, 4]}
    x.reshape(15), example = index // 5           {0: [1, 1, 1, 1, 1, 2, ..., 4]}
    x @ x.T [3, 3], both of its row and column    {0: [1, 2, 4], 1: [1, 2, 4]}
    x.sum(axis=0) [5], all                        whole = 7
    x[1] [5]                                      whole = 2

So what merges, splits or permutes axes, and what takes a batch apart and puts it together again,
keeps examples apart where they are.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, SupportsInt

import numpy as np

from ntk_train._types import Coupling

MAX_EXAMPLES = 7
UNKNOWN = 1 << MAX_EXAMPLES
_LARGE = 1 << 20  # entries of an array whose sets are not written down one by one


@dataclasses.dataclass(frozen=True)
class Dependence:
    """The examples that each entry of one array depends on.

    Attributes:
      whole: the set of examples that all entries depend on.
      axes: from an axis to the sets by the index along it, without those in `whole`; not of an
        axis along which all are the same.
      origin: where examples were mixed, or else where they left their places; None while they are
        in order.
    """

    whole: int = 0
    axes: Mapping[int, bytes] = dataclasses.field(default_factory=dict)
    origin: Coupling | None = dataclasses.field(default=None, compare=False)

    def __bool__(self) -> bool:
        """Whether any entry depends on an example."""
        return bool(self.whole or self.axes)

    def along(self, axis: int, size: int) -> np.ndarray:
        """The sets by the index along an axis, with those of the whole."""
        sets = self.axes.get(axis)
        found = np.zeros(size, np.uint8) if sets is None else np.frombuffer(sets, np.uint8)
        return found | np.uint8(self.whole)


NOTHING = Dependence()


def of_sets(whole: int, axes: Mapping[int, Any]) -> Dependence:
    """A dependence in its one form, from sets that may repeat themselves."""
    tables: dict[int, bytes] = {}
    for axis, table in axes.items():
        tables[axis] = table if isinstance(table, bytes) else table.astype(np.uint8).tobytes()
        kinds = set(tables[axis])
        if len(kinds) <= 1:
            whole |= kinds.pop() if kinds else 0
            del tables[axis]
    if whole:
        keep = bytes(i & ~whole for i in range(256))
        tables = {axis: table.translate(keep) for axis, table in tables.items()}
        if any(len(set(table)) <= 1 for table in tables.values()):
            return of_sets(whole, tables)
    return Dependence(whole, tables)


def example_of(n: int, axis: int) -> Dependence:
    """Of an input with n examples along an axis."""
    return of_sets(0, {axis: bytes(1 << i for i in range(n))})


def unknown(inputs: Iterable[Dependence]) -> Dependence:
    """Of what is computed from some values in an unknown way."""
    return Dependence(UNKNOWN) if any(inputs) else NOTHING


def any_of(table: bytes) -> int:
    """The union of sets."""
    return functools.reduce(operator.or_, set(table), 0)


def all_of(table: bytes) -> int:
    """The examples in each of the sets, with a mark that which one it is nobody knows."""
    kinds = set(table)
    common = functools.reduce(operator.and_, kinds, 0xFF) if kinds else 0
    return common | (UNKNOWN if len(kinds) > 1 else 0)


def union(values: Iterable[Dependence]) -> Dependence:
    """Of what is computed entry by entry from arrays of one shape, or of one entry."""
    parts = [value for value in values if value]
    if not parts:
        return NOTHING
    first = parts[0]
    if all(part is first or part == first for part in parts):
        return first
    whole = functools.reduce(operator.or_, (part.whole for part in parts))
    axes: dict[int, Any] = {}
    for part in parts:
        for axis, table in part.axes.items():
            if axes.setdefault(axis, table) != table:
                one, other = np.frombuffer(axes[axis], np.uint8), np.frombuffer(table, np.uint8)
                axes[axis] = (one | other).tobytes()
    return dataclasses.replace(of_sets(whole, axes), origin=origin_of(parts))


def moved(value: Dependence, places: Mapping[int, int]) -> Dependence:
    """With axes at other places; over those that get none, all entries are combined."""
    whole, axes = value.whole, {}
    for axis, table in value.axes.items():
        if axis in places:
            axes[places[axis]] = table
        else:
            whole |= any_of(table)
    return of_sets(whole, axes)


def removed(value: Dependence, axes: Sequence[int], rank: int) -> Dependence:
    """Without some axes; over those that are larger than 1 all entries are combined."""
    kept = [axis for axis in range(rank) if axis not in axes]
    return moved(value, {axis: place for place, axis in enumerate(kept)})


def rearranged(value: Dependence, of_axis: Callable[[int, np.ndarray], np.ndarray]) -> Dependence:
    """With the sets along each axis rearranged by a function of the axis and of them."""
    axes = {a: of_axis(a, np.frombuffer(t, np.uint8)) for a, t in value.axes.items()}
    return of_sets(value.whole, axes)


def without(value: Dependence, axis: int) -> Dependence:
    """The sets along the other axes, without those of the whole."""
    return of_sets(0, {a: table for a, table in value.axes.items() if a != axis})


def on_axis(value: Dependence, axis: int, table: Any) -> Dependence:
    """With other sets along one axis."""
    return of_sets(value.whole, {**value.axes, axis: table})


def joined(values: Sequence[Dependence], sizes: Sequence[int], axis: int) -> Dependence:
    """Of arrays put one behind the other along an axis."""
    table = np.concatenate(
        [value.along(axis, size) for value, size in zip(values, sizes, strict=True)]
    )
    others = union(without(value, axis) for value in values)
    found = of_sets(others.whole, {**others.axes, axis: table})
    return dataclasses.replace(found, origin=origin_of(values))


def with_axis(value: Dependence, axis: int) -> Dependence:
    """Of an array with one more axis, of size 1."""
    axes = {a if a < axis else a + 1: table for a, table in value.axes.items()}
    return Dependence(value.whole, axes, value.origin)


def entry(value: Dependence, index: int) -> Dependence:
    """Of one entry along axis 0, which is gone."""
    whole = value.whole | (value.axes[0][index] if 0 in value.axes else 0)
    return of_sets(whole, {axis - 1: table for axis, table in value.axes.items() if axis})


def separated(sets: np.ndarray) -> tuple[int, list[np.ndarray]]:
    """The set of the whole and sets for each axis, of an array of sets.

    Where sets are no unions of such, what is left of them is unknown.
    """
    axes = range(sets.ndim)
    tables = [
        np.bitwise_and.reduce(sets, axis=tuple(b for b in axes if b != axis)) for axis in axes
    ]
    covered = np.zeros_like(sets)
    for axis, table in enumerate(tables):
        covered |= table.reshape([-1 if b == axis else 1 for b in axes])
    return (UNKNOWN if (sets & ~covered).any() else 0), tables


def from_sets(sets: np.ndarray) -> Dependence:
    """The dependence of an array of sets."""
    whole, tables = separated(sets)
    return of_sets(whole, dict(enumerate(tables)))


def reshaped(value: Dependence, before: Sequence[int], after: Sequence[int]) -> Dependence:
    """Of an array whose entries, in row-major order, are given another shape."""
    if not value.axes:
        return value
    parts = [Dependence(value.whole)]
    for axis, table in value.axes.items():
        inner = math.prod(before[axis + 1 :])
        parts.append(_split(table, inner, after))
    return union(parts)


def _split(table: bytes, inner: int, shape: Sequence[int]) -> Dependence:
    """Where the sets of an axis, each for `inner` entries in turn, are in another shape."""
    end = inner * len(table)
    stride = math.prod(shape)
    places = []
    for axis, size in enumerate(shape):
        above, stride = stride, stride // size
        low, high = max(stride, inner), min(above, end)
        if low >= high:
            continue
        if low % stride or low % inner or high % low or above % high or end % high:
            return _written_out(table, inner, shape)
        places.append((axis, low // stride, high // low, above // high))
    sets = np.frombuffer(table, np.uint8).reshape([size for _, _, size, _ in places])
    whole, tables = separated(sets)
    axes = {
        axis: np.tile(np.repeat(table, below), above)
        for (axis, below, _, above), table in zip(places, tables, strict=True)
    }
    return of_sets(whole, axes)


def _written_out(table: bytes, inner: int, shape: Sequence[int]) -> Dependence:
    size = math.prod(shape)
    if size > _LARGE:
        return Dependence(all_of(table))
    flat = np.frombuffer(table, np.uint8)[(np.arange(size) // inner) % len(table)]
    return from_sets(flat.reshape(shape))


@dataclasses.dataclass(frozen=True)
class Window:
    """How a window moves along one axis, in the terms of `jax.lax.reduce_window`."""

    size: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    base_dilation: int = 1
    dilation: int = 1

    def over(self, table: bytes) -> np.ndarray:
        """The unions of the sets in the window, at each of its places."""
        sets = padded(np.frombuffer(table, np.uint8), 0, (*self.padding, self.base_dilation - 1))
        reach = (self.size - 1) * self.dilation
        starts = np.arange(0, max(len(sets) - reach, 0), self.stride)
        found = np.zeros(len(starts), np.uint8)
        for tap in range(self.size):
            found |= sets[starts + tap * self.dilation]
        return found


def padded(sets: np.ndarray, value: int, config: Sequence[SupportsInt]) -> np.ndarray:
    """Sets with others before, after and between them; negative numbers cut off, as `lax.pad`."""
    low, high, between = map(int, config)  # JAX has NumPy's integers here and there
    spread = np.full(max(len(sets) + (len(sets) - 1) * between, 0), value, np.uint8)
    spread[:: between + 1] = sets
    spread = spread[max(-low, 0) : len(spread) - max(-high, 0)]
    return np.pad(spread, (max(low, 0), max(high, 0)), constant_values=value)


def in_order(value: Dependence, n: int) -> bool:
    """Whether each entry depends on one example alone, all n along one axis in turn."""
    if not value:
        return True
    if value.whole or len(value.axes) != 1:
        return False
    (table,) = value.axes.values()
    if table[0] != 1:
        return False
    inner = len(table) - len(table.lstrip(b"\1"))
    period = b"".join(bytes([1 << i]) * inner for i in range(n))
    return table == period * (len(table) // len(period))


def is_mixed(value: Dependence) -> bool:
    """Whether some entry depends on several examples for certain."""
    sets = {value.whole}
    for table in value.axes.values():
        sets = {one | other for one in sets for other in set(table)}
    return any((one & (UNKNOWN - 1)).bit_count() > 1 for one in sets)


def origin_of(values: Iterable[Dependence]) -> Coupling | None:
    """Where examples were mixed first, or else where they left their places."""
    marked = [value for value in values if value.origin is not None]
    return next((v.origin for v in marked if is_mixed(v)), marked[0].origin if marked else None)
