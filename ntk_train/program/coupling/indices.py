"""Integers that are known while a function is traced: the indices made by `jnp.arange` and such.

They say which example a gather, a scatter or a slice takes. A known value is a float64 array in
which NaN stands for what is not known: the columns of an index may be known one by one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._jax import Equation, Literal, public_primitive, shape_of

_MOST = 4096  # entries; batches here have few examples


def is_index(v: Any) -> bool:
    """Whether a variable holds few integers or booleans."""
    if not hasattr(v.aval, "dtype") or v.aval.size > _MOST:
        return False
    dtype = v.aval.dtype
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)


def constant(v: Any, value: Any) -> np.ndarray | None:
    """The value of a literal or a constant, if it is an index."""
    if not is_index(v) or isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return None
    return np.asarray(jax.device_get(value), np.float64)


def evaluated(equation: Equation, values: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The value of an equation's one output as far as it follows from those of its inputs."""
    rule = _VALUES.get(equation.primitive)
    if rule is None or len(equation.outvars) != 1 or not is_index(equation.outvars[0]):
        return None
    if not all(is_index(v) for v in equation.invars):
        return None
    if equation.invars and all(value is None for value in values):
        return None
    full = [
        np.full(shape_of(v).shape, np.nan) if value is None else value
        for v, value in zip(equation.invars, values, strict=True)
    ]
    value = rule(equation, *full)
    return (
        None if value is None else _within(np.asarray(value), shape_of(equation.outvars[0]).dtype)
    )


def _within(value: np.ndarray, dtype: Any) -> np.ndarray:
    """Unknown where integers of that dtype would have wrapped around."""
    if dtype == np.bool_:
        return np.where(np.isnan(value), np.nan, value != 0)
    limits = jnp.iinfo(dtype)
    return np.where((value >= limits.min) & (value <= limits.max), value, np.nan)


def literal(v: Any) -> np.ndarray | None:
    """The value of an equation's input if that is written in the equation."""
    return constant(v, v.val) if isinstance(v, Literal) else None


def _select(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    chosen = np.full(np.broadcast_shapes(*(case.shape for case in cases)), np.nan)
    for i, case in enumerate(cases):
        chosen = np.where(which == i, case, chosen)
    return chosen


def _iota(equation: Equation) -> np.ndarray:
    shape, axis = equation.params["shape"], equation.params["dimension"]
    along = np.arange(shape[axis], dtype=np.float64)
    return np.broadcast_to(
        along.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape
    )


def _broadcast(equation: Equation, value: np.ndarray) -> np.ndarray:
    shape, places = equation.params["shape"], equation.params["broadcast_dimensions"]
    sizes = [1] * len(shape)
    for axis, place in enumerate(places):
        sizes[place] = value.shape[axis]
    return np.broadcast_to(value.reshape(sizes), shape)


def _slice(equation: Equation, value: np.ndarray) -> np.ndarray:
    params = equation.params
    strides = params["strides"] or (1,) * value.ndim
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return value[tuple(slice(*bound) for bound in bounds)]


def _logical(combine: Callable) -> Callable:
    def rule(equation: Equation, *values: Any) -> Any:
        is_bool = shape_of(equation.outvars[0]).dtype == np.bool_
        return combine(*values) if is_bool else None

    return rule


def _compared(compare: Callable) -> Callable:
    return lambda _, a, b: np.where(np.isnan(a) | np.isnan(b), np.nan, compare(a, b))


def _quotient(_: Equation, a: Any, b: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.trunc(a / b)


def _remainder(_: Equation, a: Any, b: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.fmod(a, b)


_RULES: dict[str, Callable[..., np.ndarray | None]] = {
    "iota": _iota,
    "add": lambda _, a, b: a + b,
    "sub": lambda _, a, b: a - b,
    "mul": lambda _, a, b: a * b,
    "div": _quotient,
    "rem": _remainder,
    "neg": lambda _, a: -a,
    "sign": lambda _, a: np.sign(a),
    "max": lambda _, a, b: np.maximum(a, b),
    "min": lambda _, a, b: np.minimum(a, b),
    "clamp": lambda _, low, a, high: np.minimum(np.maximum(a, low), high),
    "lt": _compared(np.less),
    "le": _compared(np.less_equal),
    "gt": _compared(np.greater),
    "ge": _compared(np.greater_equal),
    "eq": _compared(np.equal),
    "ne": _compared(np.not_equal),
    "and": _logical(np.minimum),
    "or": _logical(np.maximum),
    "not": _logical(lambda a: 1 - a),
    "select_n": lambda _, which, *cases: _select(which, *cases),
    "convert_element_type": lambda _, a: a,
    "copy": lambda _, a: a,
    "broadcast_in_dim": _broadcast,
    "reshape": lambda equation, a: a.reshape(equation.params["new_sizes"]),
    "squeeze": lambda equation, a: a.squeeze(tuple(equation.params["dimensions"])),
    "transpose": lambda equation, a: a.transpose(equation.params["permutation"]),
    "slice": _slice,
    "rev": lambda equation, a: np.flip(a, equation.params["dimensions"]),
    "concatenate": lambda equation, *a: np.concatenate(a, equation.params["dimension"]),
    "stack": lambda equation, *a: np.stack(a, equation.params["axis"]),
}
_VALUES = {public_primitive(name): rule for name, rule in _RULES.items()}
