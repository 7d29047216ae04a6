"""How coarsely a function rounds: the unit roundoff of its least precise number or product.

A name of a precision does not say by itself what a product rounds. `factor_bits` does, for every
name that JAX has and every kind of device: it is the one place that knows.

| name | CPU | GPU | TPU |
|---|---|---|---|
| "default", "bfloat16", "fastest" | float32 | TF32 | bfloat16 |
| "high", "tensorfloat32", "bfloat16_3x" | float32 | TF32 | bfloat16, in three terms |
| "highest", "float32" | float32 | float32 | float32 |
| a `jax.lax.DotAlgorithmPreset`, in a convolution | as "default" | as "default" | as "default" |
| the same, in any other product | float32, but for "F16_F16_F16" | as it says | as it says |

A preset in several terms ("BF16_BF16_F32_X3") keeps nearly all bits of the factors. But the tensor
cores of a GPU do not add up as IEEE does: over a long sum of squares, as the diagonal of a kernel
is, the error of three terms was measured to be that of TF32. The kernel's own sums are cut into
pieces that are short enough for the error of two bfloat16 (`ntk_train.rules.arithmetic`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._jax import (
    Equation,
    cond_p,
    inner_programs,
    linear_solve_p,
    shape_of,
    while_p,
)

# Bits of the mantissa that are kept of the factors of a product; None for all of float32.
_TF32, _BF16, _TWO_BF16 = 10, 7, 15

_BY_DEVICE: Mapping[str, Mapping[str, int | None]] = {
    "DEFAULT": {"cpu": None, "gpu": _TF32, "tpu": _BF16},
    "HIGH": {"cpu": None, "gpu": _TF32, "tpu": _TWO_BF16},
    "HIGHEST": {"cpu": None, "gpu": None, "tpu": None},
    # Presets. What a device does not have raises there, and counts as on the others.
    "ANY_F8_ANY_F8_F32": {"cpu": 2, "gpu": 2, "tpu": 2},
    "ANY_F8_ANY_F8_F32_FAST_ACCUM": {"cpu": 2, "gpu": 2, "tpu": 2},
    "ANY_F8_ANY_F8_ANY": {"cpu": 2, "gpu": 2, "tpu": 2},
    "ANY_F8_ANY_F8_ANY_FAST_ACCUM": {"cpu": 2, "gpu": 2, "tpu": 2},
    "F16_F16_F16": {"cpu": 10, "gpu": 10, "tpu": 10},
    "F16_F16_F32": {"cpu": None, "gpu": 10, "tpu": 10},
    "BF16_BF16_BF16": {"cpu": None, "gpu": _BF16, "tpu": _BF16},
    "BF16_BF16_F32": {"cpu": None, "gpu": _BF16, "tpu": _BF16},
    "BF16_BF16_F32_X3": {"cpu": None, "gpu": _TWO_BF16, "tpu": _TWO_BF16},
    "BF16_BF16_F32_X6": {"cpu": None, "gpu": None, "tpu": None},
    "BF16_BF16_F32_X9": {"cpu": None, "gpu": _TF32, "tpu": None},  # a GPU took TF32 for it
    "TF32_TF32_F32": {"cpu": None, "gpu": _TF32, "tpu": _TF32},
    "TF32_TF32_F32_X3": {"cpu": None, "gpu": _TWO_BF16, "tpu": _TF32},
    "F32_F32_F32": {"cpu": None, "gpu": None, "tpu": None},
    "F64_F64_F64": {"cpu": None, "gpu": None, "tpu": None},
}
_LEVELS = {
    **dict.fromkeys(("default", "bfloat16", "fastest"), "DEFAULT"),
    **dict.fromkeys(("high", "tensorfloat32", "bfloat16_3x"), "HIGH"),
    **dict.fromkeys(("highest", "float32"), "HIGHEST"),
}
"""What `jax.lax.Precision` makes of a name."""

NAMES = (
    *_LEVELS,
    *(name for name in _BY_DEVICE if name != "DEFAULT" and hasattr(lax.DotAlgorithmPreset, name)),
)
"""The names of precisions whose rounding is known."""


def lax_precision(name: str) -> Any:
    """What `jax.lax.dot_general` takes for a name."""
    if name in _LEVELS:
        return lax.Precision[_LEVELS[name]]
    return lax.DotAlgorithmPreset[name]


def factor_bits(precision: Any, device: str, *, is_convolution: bool = False) -> int | None:
    """Bits of the mantissa that a product keeps of its factors in float32; None for all of them.

    Args:
      precision: one of `NAMES`; or as an equation has it, a `jax.lax.Precision`, a preset or
        another algorithm of products, a pair of these for the two factors, or None.
      device: "cpu", "gpu" or "tpu", as `jax.default_backend` says it; another counts as a GPU.
      is_convolution: of which XLA drops a preset.
    """
    if isinstance(precision, tuple):
        bits = [factor_bits(each, device, is_convolution=is_convolution) for each in precision]
        return min((b for b in bits if b is not None), default=None)
    name = str(getattr(precision, "name", precision or "DEFAULT"))
    name = _LEVELS.get(name, name)
    if name not in ("HIGH", "HIGHEST") and is_convolution:
        name = "DEFAULT"
    # What is not known, an algorithm that a function spells out, may take the least.
    of = _BY_DEVICE.get(name, dict.fromkeys(("cpu", "gpu", "tpu"), _BF16))
    return of.get(device, of["gpu"])


def unit_roundoff(f: Callable[..., Any], *arguments: Any, device: str | None = None) -> float:
    """Of f at arguments or shapes: half of the distance from 1 to the next number.

    It counts the types of all floating-point numbers in f, `lax.reduce_precision`, and products
    whose factors the device rounds.

    Args:
      f: any function.
      *arguments: its arguments or their shapes.
      device: as of `factor_bits`; None for the one that JAX takes.
    """
    jaxpr = jax.make_jaxpr(f)(*arguments).jaxpr
    bits = [_bits_of(v.aval) for v in [*jaxpr.invars, *jaxpr.outvars]]
    for equation in _equations(jaxpr):
        bits += [_bits_of(v.aval) for v in equation.outvars]
        if equation.primitive is lax.reduce_precision_p:
            bits.append(equation.params["mantissa_bits"])
    bits.append(product_bits(jaxpr, device))
    return 2.0 ** -(min((b for b in bits if b is not None), default=52) + 1)


def product_bits(
    jaxpr: Any, device: str | None = None, of_convolutions: Sequence[str] = ()
) -> int | None:
    """The least `factor_bits` of products in float32 in a jaxpr; None where none rounds them.

    Args:
      jaxpr: of a function.
      device: as of `factor_bits`; None for the one that JAX takes.
      of_convolutions: names of presets that convolutions have, in place of those that XLA drops.
    """
    bits = _bits_of_products(jaxpr, device or jax.default_backend(), of_convolutions)
    return min((b for b in bits if b is not None), default=None)


def _bits_of_products(
    jaxpr: Any, device: str, of_convolutions: Sequence[str]
) -> Iterator[int | None]:
    for equation in jaxpr.eqns:
        is_convolution = equation.primitive is lax.conv_general_dilated_p
        if is_convolution or equation.primitive is lax.dot_general_p:
            precision = equation.params["precision"]
            is_dropped = is_convolution and getattr(precision, "name", "") not in of_convolutions
            if shape_of(equation.invars[0]).dtype == jnp.float32:
                yield factor_bits(precision, device, is_convolution=is_dropped)
        # What is in these is computed as it is written.
        as_written = equation.primitive in (cond_p, while_p, linear_solve_p)
        for inner in inner_programs(equation):
            yield from _bits_of_products(inner, device, () if as_written else of_convolutions)


def _equations(jaxpr: Any) -> Iterator[Equation]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in inner_programs(equation):
            yield from _equations(inner)


def _bits_of(aval: Any) -> int | None:
    dtype = getattr(aval, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
        return None
    return jnp.finfo(dtype).nmant
