"""Primitives that take or change entries at indices, of which some are known."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ntk_train._jax import Equation
from ntk_train.program.coupling.dependence import (
    Dependence,
    all_of,
    any_of,
    from_sets,
    moved,
    of_sets,
    union,
    without,
)
from ntk_train.program.coupling.registry import Values, dims, rule


@rule("dynamic_slice")
def _dynamic_slice(equation: Equation, inputs: Sequence[Dependence], values: Values) -> Dependence:
    value, *starts = inputs
    shape, sizes = dims(equation.invars[0]), dims(equation.outvars[0])
    whole = functools.reduce(lambda a, b: a | b, (start.whole for start in starts), value.whole)
    axes: dict[int, Any] = {}
    for axis, table in value.axes.items():
        room = shape[axis] - sizes[axis]
        start = _number(values[1 + axis])
        if not room:
            axes[axis] = table
        elif start is None:
            whole |= all_of(table)
        else:
            begin = min(max(start, 0), room)
            axes[axis] = table[begin : begin + sizes[axis]]
    return of_sets(whole, axes)


def _number(value: np.ndarray | None) -> int | None:
    return None if value is None or np.isnan(value) else int(value)


@rule("dynamic_update_slice")
def _dynamic_update_slice(
    equation: Equation, inputs: Sequence[Dependence], values: Values
) -> Dependence:
    value, update, *starts = inputs
    shape, sizes = dims(equation.invars[0]), dims(equation.invars[1])
    partial = [axis for axis in range(len(shape)) if sizes[axis] < shape[axis]]
    if not partial:
        return update
    if len(partial) == 1:
        (axis,) = partial
        start = _number(values[2 + axis])
        if start is not None:
            begin = min(max(start, 0), shape[axis] - sizes[axis])
            end = begin + sizes[axis]
            sets = value.along(axis, shape[axis])
            sets[begin:end] = update.along(axis, sizes[axis])
            others = union(without(v, axis) for v in (value, update))
            return of_sets(others.whole, {**others.axes, axis: sets})
    hidden = [all_of(table) for axis, table in update.axes.items() if axis in partial]
    seen = of_sets(update.whole, {a: t for a, t in update.axes.items() if a not in partial})
    places = [Dependence(start.whole) for start in starts]
    return union([value, seen, *places, *map(Dependence, hidden)])


# Indices.


@rule("gather")
def _gather(equation: Equation, inputs: Sequence[Dependence], values: Values) -> Dependence:
    value, index = inputs
    numbers = equation.params["dimension_numbers"]
    sizes = equation.params["slice_sizes"]
    shape = dims(equation.invars[0])
    rank = len(dims(equation.outvars[0]))
    batch = [axis for axis in range(rank) if axis not in numbers.offset_dims]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [axis for axis in range(len(shape)) if axis not in gone]
    place_of = dict(zip(kept, map(int, numbers.offset_dims), strict=True))
    parts = [Dependence(value.whole), moved(index, dict(enumerate(batch)))]
    for axis, table in value.axes.items():
        sets = np.frombuffer(table, np.uint8)
        if axis in numbers.operand_batching_dims:
            column = numbers.operand_batching_dims.index(axis)
            place = batch[numbers.start_indices_batching_dims[column]]
            parts.append(of_sets(0, {place: table}))
        elif axis not in numbers.start_index_map or sizes[axis] == shape[axis]:
            if axis in place_of:
                parts.append(of_sets(0, {place_of[axis]: sets[: sizes[axis]]}))
            else:
                parts.append(Dependence(any_of(table[: sizes[axis]])))
        else:
            column = list(numbers.start_index_map).index(axis)
            starts = None if values[1] is None else values[1][..., column]
            parts.append(_looked_up(sets, sizes[axis], starts, batch, place_of.get(axis)))
    return union(parts)


def _looked_up(
    sets: np.ndarray,
    size: int,
    starts: np.ndarray | None,
    batch: Sequence[int],
    offset: int | None,
) -> Dependence:
    """The sets that a gather takes along one axis: `size` of them from each start."""
    if starts is None or np.isnan(starts).any():
        return Dependence(all_of(sets.tobytes()))
    begin = np.clip(starts, 0, len(sets) - size).astype(int)
    if offset is None:
        found = from_sets(sets[begin])
        return moved(found, dict(enumerate(batch)))
    found = from_sets(sets[begin[..., None] + np.arange(size)])
    return moved(found, dict(enumerate([*batch, offset])))


@rule("scatter scatter_add scatter_sub scatter_mul scatter_min scatter_max")
def _scatter(equation: Equation, inputs: Sequence[Dependence], values: Values) -> Dependence:
    value, index, update = inputs
    numbers = equation.params["dimension_numbers"]
    shape, update_shape = dims(equation.invars[0]), dims(equation.invars[2])
    gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    kept = [axis for axis in range(len(shape)) if axis not in gone]
    window = dict(zip(map(int, numbers.update_window_dims), kept, strict=True))
    batch = [axis for axis in range(len(update_shape)) if axis not in window]
    sizes = dims(equation.invars[1])[:-1]
    parts = [value]
    written = np.full(sizes, update.whole | index.whole, np.uint8)
    for axis, table in update.axes.items():
        if axis not in window:
            written |= _spread(table, batch.index(axis), len(sizes))
        elif update_shape[axis] == shape[window[axis]]:
            parts.append(of_sets(0, {window[axis]: table}))
        else:
            parts.append(Dependence(all_of(table)))
    for axis, table in index.axes.items():
        if axis == len(sizes):  # along the numbers of one index
            written |= np.uint8(any_of(table))
        else:
            written |= _spread(table, axis, len(sizes))
    if written.any():
        parts.append(_written(written, numbers, shape, values[1]))
    return union(parts)


def _spread(table: bytes, axis: int, rank: int) -> np.ndarray:
    """Sets along one axis, to be combined with an array of sets."""
    return np.frombuffer(table, np.uint8).reshape([-1 if i == axis else 1 for i in range(rank)])


def _written(
    sets: np.ndarray, numbers: Any, shape: Sequence[int], index: np.ndarray | None
) -> Dependence:
    """Where a scatter writes what depends on these sets, one for each of its indices.

    Several numbers of an index may be known: one of them that keeps examples apart is enough.
    """
    places: list[tuple[int, np.ndarray]] = []
    batching = zip(
        numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True
    )
    for to, axis in batching:
        own = np.arange(sets.shape[axis]).reshape(
            [-1 if i == axis else 1 for i in range(sets.ndim)]
        )
        places.append((int(to), np.broadcast_to(own, sets.shape)))
    several = len(numbers.operand_batching_dims) + len(numbers.scatter_dims_to_operand_dims)
    for column, to in enumerate(map(int, numbers.scatter_dims_to_operand_dims)):
        known = index is not None and not np.isnan(index[..., column]).any()
        if index is not None and known and to in numbers.inserted_window_dims:
            places.append((to, index[..., column].astype(int)))
    for to, place in places:
        found = np.zeros(shape[to], np.uint8)
        inside = (place >= 0) & (place < shape[to])
        np.bitwise_or.at(found, place[inside], sets[inside])
        apart = not (found & (found - 1)).any()
        if apart or several == 1:
            return of_sets(0, {to: found})
    return Dependence(all_of(sets.tobytes()))
