"""The precision of matrix products: which names there are, and what each stage runs under them.

A kernel has four stages: the forward pass, the backward pass, the Jacobians that are formed of
both, and the products of Jacobians (the Gram). In a ReLU network the forward pass decides the error
of all: a unit near zero flips. And the Gram decides the smallest eigenvalues. The two between are
most of the work.

| precision | forward pass | backward pass, Jacobian | Gram |
|---|---|---|---|
| "float32", the default | float32 | float32, or three TF32 terms where as exact | float32 |
| "highest" | float32 | float32 | float32 |
| "split" | float32 | three bfloat16 terms on a GPU or TPU | float32 |
| "fast" | float32 | TF32 on a GPU, bfloat16 on a TPU | float32 |
| any other name of JAX | by that name | by that name | by that name |
| None | as f says | as f says | float32 |
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train.errors import KernelInputError
from ntk_train.program.rounding import NAMES, factor_bits, lax_precision, product_bits
from ntk_train.rules.arithmetic import AS_WRITTEN, Arithmetic

STAGED = ("float32", "split", "fast")
"""Names that mean something else for each stage."""

IN_TERMS = ("BF16_BF16_F32_X3", "TF32_TF32_F32_X3", "BF16_BF16_F32_X6", "F32_F32_F32")
"""Names that XLA drops of a convolution, which the structured implementation computes otherwise."""

# What JAX takes in a product, but not for all products that leave it open.
_TAKEN_AS = {"fastest": "default", "bfloat16_3x": "high", **dict.fromkeys(STAGED, "highest")}
_NUMBERS = {2: "float8", 7: "bfloat16", 10: "TF32", 15: "two bfloat16", None: "float32"}
"""What the factors of a product in float32 are rounded to, by the bits that are kept."""

# Terms that one product on a GPU adds up, of a sum that is cut: by tensor cores in the Gram, which
# is a sum of squares, and in the other stages, whose terms have both signs; in three TF32 terms
# that are to be as exact as float32; and in the Gram in float32, where more pieces keep a GPU busy
# that has few rows (experiments/results/benchmark_products.csv).
_LONGEST_OF_SQUARES, _LONGEST = 1024, 1536
_LONGEST_AS_EXACT = 512
_LONGEST_IN_FLOAT32, _LONGEST_OF_FEW_ROWS = 2048, 512


class Stages(NamedTuple):
    """The arithmetic of the products of each stage.

    Attributes:
      forward: of the forward pass.
      backward: of the backward pass, for all outputs.
      jacobian: of the products of cotangents with what a weight meets.
      gram: of the products of Jacobians, or of their factors.
    """

    forward: Arithmetic
    backward: Arithmetic
    jacobian: Arithmetic
    gram: Arithmetic


def check_precision(precision: Any) -> None:
    """Refuses what is neither None nor the name of a precision whose rounding is known.

    Raises:
      KernelInputError: the text has the names.
    """
    known = [*STAGED, *(name for name in NAMES if name not in STAGED)]
    if precision is not None and not (isinstance(precision, str) and precision in known):
        msg = (
            f"precision={precision!r} is no name of a precision of matrix products; expected None "
            f"or one of {known}."
        )
        raise KernelInputError(msg)


def stages_of(precision: str | None, kind: str, *, in_terms: bool = False) -> Stages:
    """The arithmetic of each stage.

    Args:
      precision: as asked for.
      kind: of device, as `jax.default_backend` says it.
      in_terms: whether three TF32 terms are faster there than float32.
    """
    on_gpu = kind not in ("cpu", "tpu")
    exact = Arithmetic(lax.Precision.HIGHEST, on_gpu=on_gpu)
    gram = exact
    if on_gpu:
        gram = exact._replace(longest=_LONGEST_IN_FLOAT32, longest_of_few=_LONGEST_OF_FEW_ROWS)
    if precision is None:
        return Stages(AS_WRITTEN, AS_WRITTEN, AS_WRITTEN, gram)
    forward = exact if on_gpu else AS_WRITTEN
    if precision == "fast" and kind != "cpu":
        least = Arithmetic(lax.Precision.DEFAULT, on_gpu=on_gpu)
        return Stages(forward, least, least, gram)
    if precision == "split" and kind != "cpu":
        three = Arithmetic(lax.Precision.HIGH)  # on a TPU
        if on_gpu:
            three = _in_three_terms(lax.DotAlgorithmPreset.BF16_BF16_F32_X3)
        return Stages(forward, three, three, gram)
    if precision == "float32" and in_terms:
        preset = lax.DotAlgorithmPreset.TF32_TF32_F32_X3
        terms = Arithmetic(preset, _LONGEST_AS_EXACT, is_cut=False, on_gpu=True)
        return Stages(forward, terms, terms, gram)
    if precision in (*STAGED, "highest"):
        return Stages(forward, forward, exact, gram)
    own = Arithmetic(lax_precision(precision))
    if not on_gpu or precision not in IN_TERMS:
        return Stages(AS_WRITTEN, AS_WRITTEN, own, own)  # f is traced with this name
    if not precision.endswith("_X3"):
        own = own._replace(on_gpu=True)
        return Stages(own, own, own, own)
    own = _in_three_terms(own.precision)
    return Stages(own, own, own, own._replace(longest=_LONGEST_OF_SQUARES))


def _in_three_terms(preset: Any) -> Arithmetic:
    """The arithmetic of a preset on a GPU, which holds for convolutions too."""
    return Arithmetic(preset, _LONGEST, longest_in_terms=math.inf, on_gpu=True)


def described(precision: str | None, stages: Stages) -> str:
    """What runs in each stage, as `ntk_train.explain` says it."""
    of_f = "as f says" if precision is None else _TAKEN_AS.get(precision, precision)

    def name(arithmetic: Arithmetic) -> str:
        own = of_f if arithmetic == AS_WRITTEN else str(arithmetic.precision.name)
        own = own.lower() if own in ("HIGHEST", "HIGH", "DEFAULT") else own
        return "float32" if own == "highest" else own

    forward, backward, jacobian, gram = map(name, stages)
    return f"forward pass {forward}, backward pass {backward}, Jacobian {jacobian}, Gram {gram}"


@contextlib.contextmanager
def precision_of_products(precision: str | None) -> Iterator[None]:
    """Sets the precision of products that leave it open, None for as it is.

    Of a name that differs by stage it is that of the forward pass.
    """
    if precision is None:
        yield
        return
    with jax.default_matmul_precision(_TAKEN_AS.get(precision, precision)):
        yield


def gram_precision(precision: str | None) -> str:
    """What `jax.numpy.einsum` takes for the products of whole Jacobians."""
    return "highest" if precision is None or precision in STAGED else precision


def kernel_product_bits(precision: str | None, dtype: Any, device: str | None = None) -> int | None:
    """Bits that products of the kernel itself keep of their factors; None for all of `dtype`."""
    if jnp.dtype(dtype) == jnp.float64:
        return None
    return factor_bits(gram_precision(precision), device or jax.default_backend())


def derivative_bits(precision: str | None, device: str | None = None) -> int | None:
    """Bits that the backward pass keeps of its factors where the forward pass keeps all."""
    names = {"fast": "default", "split": "BF16_BF16_F32_X3"}
    name = names.get(precision or "", "highest")
    return factor_bits(name, device or jax.default_backend())


def bits_of_f(
    precision: str | None, jaxpr: Any, implementation: str = "", device: str | None = None
) -> int | None:
    """Bits that products in f and in its derivatives keep of their factors; None for all of them.

    Args:
      precision: of the kernel.
      jaxpr: of f, traced within `precision_of_products`.
      implementation: of the kernel, empty for what keeps least.
      device: as of `program.rounding.factor_bits`.
    """
    device = device or jax.default_backend()
    in_terms = IN_TERMS if implementation == "structured" else ()
    bits = [product_bits(jaxpr, device, in_terms)]
    if implementation in ("structured", ""):
        bits.append(derivative_bits(precision, device))
    return min((b for b in bits if b is not None), default=None)


def what_ran(precision: str | None, dtype: Any, of_f: int | None, device: str | None = None) -> str:
    """A precision as it is written beside a number: its name, and what else than it may have run.

    Args:
      precision: as asked for.
      dtype: of the kernel.
      of_f: bits that the products in f and its derivatives keep of their factors, `bits_of_f`.
      device: as of `program.rounding.factor_bits`.

    >>> what_ran("highest", "float32", None), what_ran("default", "float32", 10, "gpu")
    ('highest', 'default (TF32)')
    >>> what_ran("BF16_BF16_F32_X6", "float32", 10, "gpu")  # f has convolutions
    'BF16_BF16_F32_X6 (float32, in f TF32)'
    """
    own = kernel_product_bits(precision, dtype, device)
    if own == of_f:
        return str(precision) if own is None else f"{precision} ({_NUMBERS[own]})"
    return f"{precision} ({_NUMBERS[own]}, in f {_NUMBERS[of_f]})"
