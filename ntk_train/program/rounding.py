"""How coarsely a function rounds: the unit roundoff of its least precise number or product."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._jax import Equation, inner_programs, shape_of

# Bits of the mantissa that an accelerator keeps of the factors of a product.
_TF32, _BF16 = 10, 7


def unit_roundoff(f: Callable[..., Any], *arguments: Any) -> float:
    """Of f at arguments or shapes: half of the distance from 1 to the next number.

    It counts the types of all floating-point numbers in f, `lax.reduce_precision`, and products
    whose factors the device rounds.
    """
    jaxpr = jax.make_jaxpr(f)(*arguments).jaxpr
    bits = [_bits_of(v.aval) for v in [*jaxpr.invars, *jaxpr.outvars]]
    bits += [bits for equation in _equations(jaxpr) for bits in _bits(equation)]
    return 2.0 ** -(min((b for b in bits if b is not None), default=52) + 1)


def _equations(jaxpr: Any) -> Iterator[Equation]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in inner_programs(equation):
            yield from _equations(inner)


def _bits(equation: Equation) -> Iterator[int | None]:
    """Of the mantissas of what an equation computes with."""
    for v in equation.outvars:
        yield _bits_of(v.aval)
    if equation.primitive is lax.reduce_precision_p:
        yield equation.params["mantissa_bits"]
    is_product = equation.primitive in (lax.dot_general_p, lax.conv_general_dilated_p)
    if is_product and shape_of(equation.invars[0]).dtype != jnp.float64:
        yield _of_factors(equation.params["precision"])


def _bits_of(aval: Any) -> int | None:
    dtype = getattr(aval, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
        return None
    return jnp.finfo(dtype).nmant


def _of_factors(precision: Any) -> int | None:
    """Of the factors of a product in float32 and below, where the device rounds them."""
    if isinstance(precision, tuple):
        bits = [_of_factors(each) for each in precision]
        return min((b for b in bits if b is not None), default=None)
    name = str(getattr(precision, "name", precision)).upper()
    if name in ("HIGHEST", "F32_F32_F32", "F64_F64_F64"):
        return None
    if name in ("NONE", "DEFAULT", "HIGH", "FASTEST"):
        # A CPU rounds no factors; a TPU takes bfloat16, a GPU TF32 where it has it.
        return {"cpu": None, "tpu": _BF16}.get(jax.default_backend(), _TF32)
    # A preset. Its split forms (X3, X6) are not kept in convolutions, which take TF32 for them.
    return _BF16 if name.startswith("BF16") and "_X" not in name else _TF32
