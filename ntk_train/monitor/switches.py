"""JAX's global switches are the caller's: what they mean for the hook.

Whatever the loop has set to find its own faults, the hook traces and runs its programs as without
it. Inside of a function that JAX traces there is nothing to measure.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ntk_train.errors import KernelInputError


@contextlib.contextmanager
def usual_switches() -> Iterator[None]:
    """JAX as it is by itself.

    Nothing can be compiled ahead under `jax.disable_jit`; under strict promotion our own products
    of two dtypes raise; transfers are what a hook is for; and a kernel that is not finite is to be
    told by its examples, before which `jax.debug_nans` would raise. What f may do under stricter
    rules it may do here too.
    """
    with (
        jax.disable_jit(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.transfer_guard("allow"),
    ):
        yield


@usual_switches()
def tracing() -> bool:
    """Whether JAX traces the caller, so that what it computes has no value yet."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)


class TracedError(KernelInputError):
    """The hook was called while JAX traces the caller: said once, and no reason to give up."""

    def __init__(self) -> None:
        super().__init__(
            "the hook was called inside of a function that JAX traces (jax.jit, jax.vmap, "
            "jax.lax.scan, ...), which runs it once, without values, and not at each step. Call "
            "it outside, between the steps, with the parameters that the step returns"
        )


def refuse_traced(*trees: Any) -> None:
    """Raises a TracedError for trees with traced leaves.

    Raises:
      TracedError: a leaf has no value yet.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees)):
        raise TracedError
