"""The precision of matrix products: which names there are, and what runs under them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ntk_train.errors import KernelInputError
from ntk_train.program.rounding import NAMES, factor_bits

# What JAX takes in a product, but not for all products that leave it open.
_TAKEN_AS = {"fastest": "default", "bfloat16_3x": "high"}
_NUMBERS = {2: "float8", 7: "bfloat16", 10: "TF32", 15: "two bfloat16", None: "float32"}
"""What the factors of a product in float32 are rounded to, by the bits that are kept."""


def check_precision(precision: Any) -> None:
    """Refuses what is neither None nor the name of a precision whose rounding is known.

    Raises:
      KernelInputError: the text has the names.
    """
    if precision is not None and not (isinstance(precision, str) and precision in NAMES):
        msg = (
            f"precision={precision!r} is no name of a precision of matrix products; expected None "
            f"or one of {list(NAMES)}."
        )
        raise KernelInputError(msg)


@contextlib.contextmanager
def precision_of_products(precision: str | None) -> Iterator[None]:
    """Sets the precision of products that leave it open, None for as it is."""
    if precision is None:
        yield
        return
    with jax.default_matmul_precision(_TAKEN_AS.get(precision, precision)):
        yield


def kernel_product_bits(precision: str | None, dtype: Any, device: str | None = None) -> int | None:
    """Bits that products of the kernel itself keep of their factors; None for all of `dtype`."""
    if jnp.dtype(dtype) == jnp.float64:
        return None
    return factor_bits(precision or "highest", device or jax.default_backend())


def what_ran(precision: str | None, dtype: Any, of_f: int | None, device: str | None = None) -> str:
    """A precision as it is written beside a number: its name, and what else than it may have run.

    Args:
      precision: as asked for.
      dtype: of the kernel.
      of_f: bits that the products in f keep of their factors, `program.rounding.product_bits`.
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
