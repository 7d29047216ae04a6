"""Kernels of something that is made of the outputs: directions, random projections, a function.

They are kernels of another function with fewer outputs, for each of which a backward pass is taken:
of a language model with 50 000 outputs 16 in place of 50 000.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._arguments import described, whole_number
from ntk_train._types import PyTree
from ntk_train.errors import KernelInputError


@dataclasses.dataclass(frozen=True)
class Projections:
    """Asks for the traced kernel by k random directions of the outputs, as `outputs=` of a kernel.

        Theta[n,m] ~ 1/k sum_c <d(v_c . f(x1)[n])/dtheta, d(v_c . f(x2)[m])/dtheta>

    The signs v_c[o] are independent, so that the mean is the sum over equal outputs, without bias
    (M. F. Hutchinson, *A Stochastic Estimator of the Trace of the Influence Matrix*, 1990). They
    are the same for all examples: with others on either side the sum would be one over pairs of
    outputs. `ntk_train.estimate_trace_kernel` has the standard errors too.

    Attributes:
      k: directions, and backward passes. Where there are no more outputs than that, the kernel is
        the traced one itself.
      seed: of the signs; the same for kernels that are to be compared, as in a run.

    Raises:
      KernelInputError: k is no whole number from 1, or seed none from 0.
    """

    k: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks both."""
        expected = "a number of random directions, from 1"
        object.__setattr__(self, "k", whole_number("Projections.k", self.k, expected))
        expected = "a whole number from 0 to 2**32 - 1"
        seed = whole_number("Projections.seed", self.seed, expected, least=0, most=2**32 - 1)
        object.__setattr__(self, "seed", seed)

    def signs(self, num_outputs: int) -> jax.Array:
        """The directions [O, k], of 1 and -1."""
        return jax.random.rademacher(jax.random.key(self.seed), (num_outputs, self.k), jnp.int8)


def is_readout(outputs: Any) -> bool:
    """Whether outputs of a kernel are made of those of f, rather than some of them."""
    is_matrix = getattr(outputs, "ndim", 0) == 2 and jnp.issubdtype(outputs.dtype, jnp.floating)
    is_function = callable(outputs) and outputs is not Projections
    return isinstance(outputs, Projections) or is_function or is_matrix


def mode_of(outputs: Any) -> str:
    """The mode in which the kernel of what `read_out` makes is computed."""
    return "trace" if isinstance(outputs, Projections) else "full"


def read_out(outputs: Any) -> Callable[[PyTree], PyTree]:
    """From the outputs of f to what the kernel is of; the outputs themselves where they are named.

    Args:
      outputs: as `KernelOptions` has them.
    """
    if callable(outputs):
        return outputs
    if isinstance(outputs, Projections):
        return lambda y: _projected(outputs, flat_outputs(y))
    if is_readout(outputs):
        return lambda y: _in_directions(outputs, flat_outputs(y))
    return lambda y: y


def flat_outputs(y: PyTree) -> jax.Array:
    """The leaves [N, ...] of outputs as one [N, O]."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(y)]
    rows = [leaf.reshape(leaf.shape[0], math.prod(leaf.shape[1:])) for leaf in leaves]
    return jnp.concatenate(rows, axis=1)


def _projected(projections: Projections, y: jax.Array) -> jax.Array:
    if projections.k >= y.shape[1]:
        return y
    signs = projections.signs(y.shape[1]).astype(y.dtype)
    return y @ signs / jnp.sqrt(projections.k).astype(y.dtype)


def _in_directions(directions: Any, y: jax.Array) -> jax.Array:
    if directions.shape[0] != y.shape[1]:
        msg = (
            f"outputs is a matrix {described(directions)} of directions; f has {y.shape[1]} "
            f"outputs per example, so that it must be [{y.shape[1]}, k]."
        )
        raise KernelInputError(msg)
    if not isinstance(directions, jax.core.Tracer):
        directions = np.asarray(directions)  # on no device, which could be another than f's
    return y @ jnp.asarray(directions, y.dtype)


def name_of_outputs(outputs: Any) -> str:
    """What a kernel is of, in a few words."""
    if isinstance(outputs, str):
        return outputs
    if isinstance(outputs, Projections):
        return f"trace by {outputs.k} random projections (seed {outputs.seed})"
    if callable(outputs):
        return f"full, of {getattr(outputs, '__qualname__', type(outputs).__name__)} of the outputs"
    if is_readout(outputs):
        return f"full, in {np.shape(outputs)[1]} directions"
    return "chosen logits"
