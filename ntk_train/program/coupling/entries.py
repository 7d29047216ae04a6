"""Primitives that combine arrays entry by entry, or all entries along some axes."""

import functools
from collections.abc import Sequence

import numpy as np

from ntk_train._jax import Equation
from ntk_train.program.coupling.dependence import (
    UNKNOWN,
    Dependence,
    moved,
    on_axis,
    removed,
    union,
    unknown,
)
from ntk_train.program.coupling.registry import Values, dims, rule

# Entry by entry.


@rule(
    "abs acos acosh add add_any add_jaxvals and asin asinh atan atan2 atanh bessel_i0e bessel_i1e "
    "cbrt ceil clamp clz complex conj convert_element_type copy cos cosh digamma div empty2 "
    "eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag "
    "integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min mul mulhi name ne "
    "neg nextafter not or polygamma population_count pow random_clone random_fold_in real "
    "reduce_precision regularized_incomplete_beta rem round rsqrt sharding_constraint shift_left "
    "shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan "
    "tanh threefry2x32 xor zeta random_seed layout_constraint random_gamma "
    "log2 one_minus_square polynomial"
)
def _elementwise(_: Equation, inputs: Sequence[Dependence], __: Values) -> Dependence:
    return union(inputs)


@rule("device_put optimization_barrier")
def _each(_: Equation, inputs: Sequence[Dependence], __: Values) -> Sequence[Dependence]:
    return inputs


@rule("select_n")
def _select(equation: Equation, inputs: Sequence[Dependence], values: Values) -> Dependence:
    which, *cases = inputs
    chosen = np.unique(values[0]) if values[0] is not None else np.array([np.nan])
    if len(chosen) == 1 and not np.isnan(chosen[0]):
        return cases[int(chosen[0])]
    if not dims(equation.invars[0]) and not which:
        return either(cases)
    return union(inputs)


def either(cases: Sequence[Dependence]) -> Dependence:
    """Of one of several values, by a switch that depends on no example and that nobody knows."""
    if all(case == cases[0] for case in cases):
        return cases[0]
    both = union(cases)
    if not both.whole and all(not case or case == both for case in cases):
        return both
    common = functools.reduce(lambda a, b: a & b, (case.whole for case in cases))
    return Dependence(common | UNKNOWN)


# Axes combined.


@rule(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin "
    "reduce"
)
def _reduce(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    gone = equation.params["axes" if "axes" in equation.params else "dimensions"]
    rank = max(len(dims(v)) for v in equation.invars)
    return removed(union(inputs), list(map(int, gone)), rank)


@rule("psum pmax pmin")
def _collective(
    equation: Equation, inputs: Sequence[Dependence], _: Values
) -> Sequence[Dependence]:
    axes = equation.params["axes"]
    if not all(
        isinstance(axis, int | np.integer) for axis in axes
    ):  # of devices, or of an outer `vmap`
        return [unknown(inputs)] * len(equation.outvars)
    ranks = [len(dims(v)) for v in equation.invars]
    return [
        removed(value, list(map(int, axes)), rank)
        for value, rank in zip(inputs, ranks, strict=True)
    ]


def _combined(value: Dependence, axes: Sequence[int]) -> Dependence:
    """Each entry along some axes depends on all along them."""
    return moved(value, {axis: axis for axis in value.axes if axis not in axes})


@rule("sort")
def _sort(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    return _combined(union(inputs), [equation.params["dimension"]])


@rule("top_k approx_top_k")
def _top_k(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    axis = equation.params.get("axis", equation.params.get("reduction_dimension", -1))
    return _combined(inputs[0], [axis % len(dims(equation.invars[0]))])


@rule("fft")
def _fft(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    rank = len(dims(equation.invars[0]))
    lengths = equation.params["fft_lengths"]
    return _combined(inputs[0], range(rank - len(lengths), rank))


@rule("cumsum cumprod cummax cummin cumlogsumexp")
def _cumulative(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    axis, step = equation.params["axis"], -1 if equation.params["reverse"] else 1
    if axis not in inputs[0].axes:
        return inputs[0]
    sets = np.frombuffer(inputs[0].axes[axis], np.uint8)[::step]
    return on_axis(inputs[0], axis, np.bitwise_or.accumulate(sets)[::step])


# The last axes of a matrix or a vector combined, those before are batches of it.


@rule(
    "cholesky eig eigh hessenberg householder_product lu qr schur svd tridiagonal "
    "cholesky_update ormqr symmetric_product"
)
def _matrices(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    return _batches(inputs, len(dims(equation.invars[0])) - 2)


@rule("lu_pivots_to_permutation")
def _vectors(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    return _batches(inputs, len(dims(equation.invars[0])) - 1)


@rule("triangular_solve tridiagonal_solve")
def _solve(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    *matrix, right = inputs
    rank = len(dims(equation.invars[-1]))
    apart = rank - 1 if equation.params.get("left_side", True) else rank - 2
    places = {axis: axis for axis in (*range(rank - 2), apart)}
    return union([_batches(matrix, rank - 2), moved(right, places)])


@rule("random_bits random_split random_wrap random_unwrap bitcast_convert_type")
def _at_the_end(equation: Equation, inputs: Sequence[Dependence], _: Values) -> Dependence:
    rank = min(len(dims(equation.invars[0])), len(dims(equation.outvars[0])))
    return _batches(inputs, rank)


def _batches(inputs: Sequence[Dependence], rank: int) -> Dependence:
    return moved(union(inputs), {axis: axis for axis in range(rank)})
