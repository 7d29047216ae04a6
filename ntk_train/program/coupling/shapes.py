"""Primitives that bring axes, or the entries along them, to other places."""

import itertools
from collections.abc import Sequence

import numpy as np

from ntk_train._jax import Equation
from ntk_train.program.coupling.dependence import (
    Dependence,
    joined,
    moved,
    of_sets,
    padded,
    rearranged,
    removed,
    reshaped,
    union,
    with_axis,
    without,
)
from ntk_train.program.coupling.registry import Values, dims, rule

# Axes at other places.


@rule("broadcast_in_dim")
def _broadcast(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    return moved(inputs[0], dict(enumerate(map(int, equation.params["broadcast_dimensions"]))))


@rule("reshape")
def _reshape(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    value, before = inputs[0], dims(equation.invars[0])
    order = equation.params.get("dimensions")
    if order is not None:  # they are brought to this order first
        value = moved(value, {axis: place for place, axis in enumerate(order)})
        before = tuple(before[axis] for axis in order)
    return reshaped(value, before, dims(equation.outvars[0]))


@rule("transpose")
def _transpose(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    places = {axis: place for place, axis in enumerate(equation.params["permutation"])}
    return moved(inputs[0], places)


@rule("squeeze")
def _squeeze(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    rank = len(dims(equation.invars[0]))
    gone = {axis % rank for axis in equation.params["dimensions"]}
    return removed(inputs[0], list(gone), rank)


# Entries at other places.


@rule("rev")
def _rev(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    turned = equation.params["dimensions"]
    return rearranged(inputs[0], lambda axis, sets: sets[::-1] if axis in turned else sets)


@rule("slice")
def _slice(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    start, stop = equation.params["start_indices"], equation.params["limit_indices"]
    step = equation.params["strides"] or [1] * len(start)
    return rearranged(inputs[0], lambda axis, sets: sets[start[axis] : stop[axis] : step[axis]])


@rule("split")
def _split(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Sequence[Dependence]:
    along, sizes = equation.params["axis"], equation.params["sizes"]
    ends = itertools.accumulate(map(int, sizes))

    def part(start: int, end: int) -> Dependence:
        return rearranged(inputs[0], lambda axis, sets: sets[start:end] if axis == along else sets)

    return [part(end - int(size), end) for size, end in zip(sizes, ends, strict=True)]


@rule("unstack")
def _unstack(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Sequence[Dependence]:
    (value,), axis = inputs, int(equation.params["axis"])
    rest = moved(without(value, axis), {a: a if a < axis else a - 1 for a in value.axes})
    sets = value.along(axis, dims(equation.invars[0])[axis])
    return [union([rest, Dependence(int(one))]) for one in sets]


@rule("tile")
def _tile(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    reps = equation.params["reps"]
    return rearranged(inputs[0], lambda axis, sets: np.tile(sets, reps[axis]))


@rule("pad")
def _pad(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    value, filler = inputs
    config = equation.params["padding_config"]
    if filler:
        shape = dims(equation.invars[0])
        others = union([value, filler])
        axes = {
            axis: padded(value.along(axis, shape[axis]), filler.whole, config[axis])
            for axis in range(len(shape))
            if any(config[axis])
        }
        return of_sets(0 if axes else value.whole, {**others.axes, **axes})
    return rearranged(value, lambda axis, sets: padded(sets, 0, config[axis]))


@rule("concatenate")
def _concatenate(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    axis = int(equation.params["dimension"])
    return joined(inputs, [dims(v)[axis] for v in equation.invars], axis)


@rule("stack")
def _stack(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    axis = int(equation.params["axis"]) % len(dims(equation.outvars[0]))
    return joined([with_axis(value, axis) for value in inputs], [1] * len(inputs), axis)
