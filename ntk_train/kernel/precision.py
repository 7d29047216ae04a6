"""The precision of matrix products that a function leaves open."""

import contextlib
from collections.abc import Iterator

import jax

from ntk_train.errors import KernelInputError


@contextlib.contextmanager
def precision_of_products(precision: str | None) -> Iterator[None]:
    """Sets the precision of products that leave it open, None for as it is.

    Raises:
      KernelInputError: JAX knows no such precision.
    """
    if precision is None:
        yield
        return
    try:
        context = jax.default_matmul_precision(precision)
        context.__enter__()
    except (TypeError, ValueError) as error:
        msg = (
            f"precision={precision!r} is no name that jax.default_matmul_precision takes: "
            "'default', 'high', 'highest', 'tensorfloat32', 'BF16_BF16_F32_X3', ..."
        )
        raise KernelInputError(msg) from error
    try:
        yield
    finally:
        context.__exit__(None, None, None)
