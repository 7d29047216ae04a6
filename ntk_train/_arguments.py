"""Whether an argument is the number, the function or the array that is asked for.

Each check returns the argument in one plain form, or says its name, what came and what was
expected. A type that happens to work (`True` for 1, "2" for 2) is refused all the same: it is
more often a mistake than a number.
"""

import math
import numbers
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train.errors import DtypeError, KernelInputError


def described(value: Any) -> str:
    """What came, in a few words: dtype and shape of an array, a short value, or a type."""
    if isinstance(value, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)):
        return f"{value.dtype}{list(value.shape)}"
    if value is None or isinstance(value, (str, numbers.Number, np.generic, list, tuple, dict)):
        text = repr(value)
        if len(text) <= 60:
            return text
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"an object of type {type(value).__name__}"


def whole_number(
    name: str, value: Any, expected: str, *, least: float = 1, most: float = math.inf
) -> int:
    """The argument as an int; a float without a fraction is one too.

    Raises:
      KernelInputError: it is none, or not from `least` to `most`.
    """
    number = _number(value)
    if number is None or not least <= number <= most or not float(number).is_integer():
        msg = f"{name}={described(value)}; expected {expected}."
        raise KernelInputError(msg)
    return int(number)


def real_number(
    name: str,
    value: Any,
    expected: str,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    or_infinite: bool = False,
) -> float:
    """The argument as a float: finite, or infinity where that has a meaning.

    Raises:
      KernelInputError: it is none, is NaN, or is not `least` or more, above `above`, below `below`.
    """
    number = _number(value)
    fits = number is not None and least <= number and above < number < below
    if number is None or not (fits or (or_infinite and number == math.inf)):
        msg = f"{name}={described(value)}; expected {expected}."
        raise KernelInputError(msg)
    return float(number)


def _number(value: Any) -> int | float | None:
    """A Python number, or a NumPy or JAX array of one; None for all else, a bool too."""
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        is_number = any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.integer, jnp.floating))
        if value.ndim or not is_number or isinstance(value, jax.core.Tracer):
            return None
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return operator.index(value) if isinstance(value, numbers.Integral) else float(value)


def yes_or_no(name: str, value: Any, expected: str = "True or False") -> bool:
    """The argument as a bool.

    Raises:
      KernelInputError: it is none; of "no", None and 0 it cannot be said what they mean.
    """
    if not isinstance(value, (bool, np.bool_)):
        msg = f"{name}={described(value)}; expected {expected}."
        raise KernelInputError(msg)
    return bool(value)


def check_function(name: str, value: Any, expected: str) -> None:
    """Refuses what cannot be called.

    Raises:
      KernelInputError: it cannot.
    """
    if not callable(value):
        msg = f"{name} is {described(value)}; expected {expected}."
        raise KernelInputError(msg)


def check_type(name: str, value: Any, kinds: type | tuple[type, ...], expected: str) -> None:
    """Refuses what is of another type.

    Raises:
      KernelInputError: it is.
    """
    if not isinstance(value, kinds):
        msg = f"{name} is {described(value)}; expected {expected}."
        raise KernelInputError(msg)


def real_array(name: str, value: Any, expected: str) -> np.ndarray:
    """The argument on the host, in float64, with finite entries.

    Raises:
      DtypeError: it is complex.
      KernelInputError: it holds no numbers, or NaN or infinite ones.
    """
    array = numeric_array(name, value, expected)
    if np.iscomplexobj(array):
        msg = f"{name} is {described(array)}; expected {expected}, not complex ones."
        raise DtypeError(msg)
    array = array.astype(np.float64)
    bad = int(np.sum(~np.isfinite(array)))
    if bad:
        msg = f"{name} has {bad} NaN or infinite entries of {array.size}; expected {expected}."
        raise KernelInputError(msg)
    return array


def numeric_array(name: str, value: Any, expected: str) -> np.ndarray:
    """The argument on the host, with numbers of any dtype as entries.

    Raises:
      KernelInputError: it holds none.
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # random keys, nested lists of unequal lengths
        array = None
    if array is None or not (array.dtype == bool or jnp.issubdtype(array.dtype, jnp.number)):
        msg = f"{name} is {described(value)}; expected {expected}."
        raise KernelInputError(msg)
    return array
