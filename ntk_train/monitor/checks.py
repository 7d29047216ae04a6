"""What a hook refuses when it is made: arguments that could not work at any step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._types import PyTree
from ntk_train.errors import KernelInputError
from ntk_train.kernel.auto import check_implementation
from ntk_train.kernel.precision import precision_of_products
from ntk_train.kernel.problem import on_one_device, parse_outputs


def check_options(
    outputs: Any,
    implementation: str,
    precision: str | None,
    max_overhead: float | None,
    max_failures: int,
) -> None:
    """Refuses what could not work at any step.

    Raises:
      KernelInputError: the text names the argument.
    """
    if isinstance(outputs, str) and outputs == "diagonal":
        msg = "outputs='diagonal' is no square kernel and has no spectrum; use 'full' or 'trace'."
        raise KernelInputError(msg)
    parse_outputs(outputs, None)
    check_implementation(implementation)
    with precision_of_products(precision):
        pass
    if max_overhead is not None and not max_overhead > 0:
        msg = f"max_overhead={max_overhead}; expected a part of the run's time, as 0.01, or None."
        raise KernelInputError(msg)
    if max_failures < 1:
        msg = f"max_failures={max_failures}; expected 1 or more, or the hook would never run."
        raise KernelInputError(msg)


def checked_labels(labels: Any, probe: PyTree) -> np.ndarray | None:
    """Labels as an array, one for each probe input.

    Raises:
      KernelInputError: they are not.
    """
    if labels is None:
        return None
    labels, n = np.asarray(labels), len(jax.tree.leaves(probe)[0])
    if labels.ndim not in (1, 2) or len(labels) != n:
        msg = f"labels has shape {labels.shape}; expected one for each of the {n} probe inputs."
        raise KernelInputError(msg)
    return labels


def checked_probe(probe: PyTree, batched: bool) -> PyTree:
    """The probe as arrays on one device, finite and with examples on axis 0.

    Raises:
      KernelInputError: it is not.
    """
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(probe)]
    if not shapes or any(not shape or shape[0] == 0 for shape in shapes):
        msg = f"probe has leaves of shapes {shapes}; expected at least one example on axis 0."
        raise KernelInputError(msg)
    if batched and len({shape[0] for shape in shapes}) > 1:
        msg = f"probe has leaves of shapes {shapes}; expected as many examples in each."
        raise KernelInputError(msg)
    probe = jax.tree.map(jnp.asarray, on_one_device("probe", probe))
    for leaf in jax.tree.leaves(probe):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.all(jnp.isfinite(leaf))):
            msg = "probe holds NaN or infinite numbers; every kernel would be NaN."
            raise KernelInputError(msg)
    return probe
