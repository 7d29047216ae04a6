"""The traced kernel of many outputs, estimated by random projections, with its errors.

>>> import jax, jax.numpy as jnp, ntk_train
>>> f = lambda w, x: jnp.tanh(x @ w)
>>> w, x = jax.random.normal(jax.random.key(0), (3, 500)), jnp.eye(3)
>>> estimate = ntk_train.estimate_trace_kernel(f, w, x, k=16)
>>> estimate.kernel.shape, estimate.errors.shape, estimate.is_exact
((3, 3), (3, 3), False)
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from ntk_train._arguments import whole_number
from ntk_train._types import ApplyFn, PyTree
from ntk_train.errors import KernelInputError
from ntk_train.kernel.readout import Projections, flat_outputs
from ntk_train.kernel.tangent_kernel import ntk


@dataclasses.dataclass(frozen=True)
class TraceEstimate:
    """A traced kernel and how far it may be off: standard errors, of the mean over projections.

    The errors come of the spread of k projections: one in three numbers is off by more than its
    error, one in twenty by more than twice of it, about, for k from 10 or so.

    Attributes:
      kernel: the estimate [N, M].
      errors: of each of its entries [N, M].
      trace: the sum of its diagonal; NaN where x2 was given.
      trace_error: of that.
      lambda_max: its largest eigenvalue; NaN where x2 was given.
      lambda_max_error: of that, in the first order. The largest eigenvalue of an estimate is also a
        little too large in the mean, by the second order.
      is_exact: whether there are no more outputs than projections, so that it is no estimate.
    """

    kernel: np.ndarray
    errors: np.ndarray
    trace: float
    trace_error: float
    lambda_max: float
    lambda_max_error: float
    is_exact: bool


def estimate_trace_kernel(
    f: ApplyFn,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None = None,
    *,
    k: int = 16,
    seed: int = 0,
    model_state: PyTree = None,
    **options: Any,
) -> TraceEstimate:
    """Estimates the traced kernel by k backward passes in place of O, and says how far it is off.

    Args:
      f: as in `ntk_train.ntk`.
      params: as in `ntk_train.ntk`.
      x1: N inputs.
      x2: M other inputs, or None.
      k: random projections, from 2 up: of one the spread is not known. They are the same for all
        examples.
      seed: of the projections.
      model_state: as in `ntk_train.ntk`.
      **options: of `ntk_train.ntk`, but for outputs, per_layer and check.

    Returns:
      A `TraceEstimate`, in float64 on the host. Its kernel is that of
      `ntk(..., outputs=Projections(k, seed))`.

    Raises:
      KernelInputError, DtypeError: as `ntk_train.ntk`.
    """
    refused = sorted({"outputs", "per_layer", "check"} & options.keys())
    if refused:
        msg = f"{refused} is no option of an estimated trace; it has those of ntk but for these."
        raise KernelInputError(msg)
    if any(isinstance(v, jax.core.Tracer) for v in jax.tree.leaves((params, x1, x2, model_state))):
        msg = (
            "estimate_trace_kernel computes errors on the host, not under jax.jit, jax.vmap or "
            "jax.grad; use ntk(..., outputs=Projections(k, seed)) there."
        )
        raise KernelInputError(msg)
    projections = Projections(whole_number("k", k, "projections, from 2", least=2), seed)
    k = projections.k
    state = () if not jax.tree.leaves(model_state) else (model_state,)
    one = jax.eval_shape(lambda *a: flat_outputs(f(*a)), params, x1, *state)
    num_outputs = one.shape[1]
    options |= {"model_state": model_state}
    if k >= num_outputs:
        kernel = np.asarray(ntk(f, params, x1, x2, outputs="trace", **options), np.float64)
        each = kernel[:, :, None]
    else:

        def projected(params: PyTree, x: PyTree, *state: PyTree) -> jax.Array:
            y = flat_outputs(f(params, x, *state))
            return y @ projections.signs(num_outputs).astype(y.dtype)

        each = np.asarray(ntk(projected, params, x1, x2, outputs="diagonal", **options), np.float64)
        kernel = each.mean(axis=2)
    trace = trace_error = largest = largest_error = math.nan
    if x2 is None:
        trace, trace_error = _mean(np.einsum("nnc->c", each))
        values, vectors = np.linalg.eigh((kernel + kernel.T) / 2)
        v = vectors[:, -1]
        largest, (_, largest_error) = float(values[-1]), _mean(np.einsum("n,nmc,m->c", v, each, v))
    errors = _error(each)
    return TraceEstimate(
        kernel, errors, trace, trace_error, largest, largest_error, k >= num_outputs
    )


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(_error(values))


def _error(values: np.ndarray) -> np.ndarray:
    """Of the mean over the last axis; 0 of one value."""
    k = values.shape[-1]
    return np.asarray(values.std(axis=-1, ddof=min(1, k - 1)) / math.sqrt(k))
