"""Products, convolutions and windows."""

from collections.abc import Sequence

import numpy as np

from ntk_train._jax import Equation
from ntk_train.program.coupling.dependence import (
    UNKNOWN,
    Dependence,
    Window,
    all_of,
    any_of,
    from_sets,
    moved,
    of_sets,
    on_axis,
    rearranged,
    union,
)
from ntk_train.program.coupling.registry import Values, dims, rule

# Windows.


@rule("reduce_window_sum reduce_window_max reduce_window_min reduce_window select_and_gather_add")
def _reduce_window(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    params = equation.params
    rank = len(dims(equation.outvars[0]))
    ones = (1,) * rank

    def over(axis: int, sets: np.ndarray) -> np.ndarray:
        return Window(
            params["window_dimensions"][axis],
            params["window_strides"][axis],
            params["padding"][axis],
            params.get("base_dilation", ones)[axis],
            params.get("window_dilation", ones)[axis],
        ).over(sets.tobytes())

    return rearranged(union(inputs), over)


@rule("select_and_scatter_add select_and_scatter")
def _select_and_scatter(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    params = equation.params
    both = union(inputs)
    trivial = [
        size == stride == 1 and not any(padding)
        for size, stride, padding in zip(
            params["window_dimensions"], params["window_strides"], params["padding"], strict=True
        )
    ]
    parts = [
        of_sets(0, {axis: table}) if trivial[axis] else Dependence(all_of(table) | UNKNOWN)
        for axis, table in both.axes.items()
    ]
    return union([Dependence(both.whole), *parts])


# Products.


@rule("dot_general")
def _dot_general(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    contracted, batch = equation.params["dimension_numbers"]
    place = len(batch[0])
    parts = []
    for side, value in enumerate(inputs):
        places = {axis: i for i, axis in enumerate(batch[side])}
        for axis in range(len(dims(equation.invars[side]))):
            if axis not in contracted[side] and axis not in batch[side]:
                places[axis] = place
                place += 1
        parts.append(moved(value, places))
    return union(parts)


@rule("conv_general_dilated")
def _convolution(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    params = equation.params
    x_spec, w_spec, y_spec = params["dimension_numbers"]
    features = dims(equation.outvars[0])[y_spec[1]]
    parts = [Dependence(inputs[0].whole | inputs[1].whole)]
    for axis, table in inputs[0].axes.items():
        place = list(x_spec).index(axis)
        sets = np.frombuffer(table, np.uint8)
        if place == 0:
            rows = sets.reshape(params["batch_group_count"], -1)
            axes = _grouped(rows, features, y_spec)
        elif place == 1:
            groups = params["feature_group_count"]
            ones = np.bitwise_or.reduce(sets.reshape(groups, -1), axis=1)
            axes = of_sets(0, {y_spec[1]: np.repeat(ones, features // groups)})
        else:
            window = _window_of(equation, place - 2)
            axes = of_sets(0, {y_spec[place]: window.over(table)})
        parts.append(axes)
    for axis, table in inputs[1].axes.items():
        is_output = axis == w_spec[0]
        parts.append(of_sets(0, {y_spec[1]: table}) if is_output else Dependence(any_of(table)))
    return union(parts)


def _grouped(rows: np.ndarray, features: int, y_spec: Sequence[int]) -> Dependence:
    """Of a convolution whose batch is divided into groups, each with features of its own."""
    found = moved(from_sets(rows), {0: y_spec[1], 1: y_spec[0]})
    if y_spec[1] not in found.axes:
        return found
    groups = np.frombuffer(found.axes[y_spec[1]], np.uint8)
    return on_axis(found, y_spec[1], np.repeat(groups, features // len(groups)))


def _window_of(equation: Equation, i: int) -> Window:
    params = equation.params
    taps = dims(equation.invars[1])[params["dimension_numbers"].rhs_spec[2 + i]]
    return Window(
        taps,
        params["window_strides"][i],
        params["padding"][i],
        params["lhs_dilation"][i],
        params["rhs_dilation"][i],
    )
