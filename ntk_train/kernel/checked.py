"""A kernel that is compared with plain derivatives before it is returned, and who is to blame."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._types import ApplyFn, PyTree
from ntk_train.errors import KernelInputError, WrongKernelError
from ntk_train.kernel.certificate import Certificate, certificate_of
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.precision import precision_of_products
from ntk_train.kernel.problem import split_params
from ntk_train.kernel.whole import as_one_program

Compute = Callable[[KernelOptions], Any]
"""From the options to the kernel, or a dict of its parts."""


def checked(
    compute: Compute,
    f: ApplyFn,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None,
    options: KernelOptions,
) -> Any:
    """A kernel that has passed its check.

    Args:
      compute: makes the kernel.
      f: the function, as in `ntk_train.ntk`.
      params: its parameters.
      x1: the inputs.
      x2: the other inputs, or None.
      options: of the kernel.

    Raises:
      KernelInputError: an argument is traced, and numbers are not known.
      WrongKernelError: the check failed; the text names the layers.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, x1, x2))):
        msg = (
            "check=True compares numbers, which are not known under jax.jit, jax.vmap or jax.grad. "
            "Call ntk outside of them, or give the kernel that comes out to ntk_train.certify."
        )
        raise KernelInputError(msg)

    found = compute(options)
    certificate = certificate_of(found, f, params, x1, x2, options)
    if certificate.holds:
        return found
    raise WrongKernelError(blame(compute, certificate, f, params, x1, x2, options))


def blame(
    compute: Compute,
    certificate: Certificate,
    f: ApplyFn,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None,
    options: KernelOptions,
) -> str:
    """The text of the error: how wrong a kernel is, where, why, and what to do.

    Args:
      compute: makes the kernel.
      certificate: of the kernel, which does not hold.
      f: the function.
      params: its parameters.
      x1: the inputs.
      x2: the other inputs, or None.
      options: of the kernel.
    """
    by, tolerance = certificate.worst
    text = (
        "the kernel is wrong: v^T Theta v differs from ||J^T v||^2, from plain derivatives of f, "
        f"by {by:.2g} of it (tolerance {tolerance:.2g}). "
    )
    change = interaction(f, params, x1, options.param_filter)
    if change > max(tolerance, 1e-3 * by):
        return (
            f"{text}The outputs of an example depend on other examples (BatchNorm in train mode?): "
            f"derivatives change by {change:.2g} when each example is alone. Say batched=False, or "
            "switch f to eval mode."
        )
    each = dataclasses.replace(options, per_layer=lambda path: path)
    leaves = certificate_of(compute(each), f, params, x1, x2, each)
    named = [f"{path} ({leaves.deviations[path]:.2g})" for path in leaves.wrong[:10]]
    where = f"It is wrong in {', '.join(named)}. " if named else ""
    return (
        f"{text}{where}This is a fault of ntk_train: please report it, with f and what "
        "ntk_train.explain says of it. implementation='jacobian_contraction' computes the kernel "
        "by plain derivatives."
    )


def interaction(f: ApplyFn, params: PyTree, x: PyTree, param_filter: Any = None) -> float:
    """By how much J^T v changes, relative to it, when f takes each example alone.

    0 but for rounding if the outputs of an example depend on that example alone.
    """

    def change(params: PyTree, x: PyTree) -> jax.Array:
        theta, _, merge = split_params(params, param_filter)

        def pulled(x: PyTree, z: PyTree) -> list[jax.Array]:
            _, pullback = jax.vjp(lambda theta: f(merge(theta), x), theta)
            return pullback(z)[0]

        def add(total: list[jax.Array], example: Any) -> tuple[list[jax.Array], None]:
            one = pulled(*jax.tree.map(lambda leaf: leaf[None], example))
            return jax.tree.map(jnp.add, total, one), None

        shapes, treedef = jax.tree.flatten(jax.eval_shape(f, params, x))
        keys = jax.random.split(jax.random.key(0), len(shapes))
        cotangents = [
            jax.random.rademacher(key, shape.shape, shape.dtype)
            for key, shape in zip(keys, shapes, strict=True)
        ]
        z = jax.tree.unflatten(treedef, cotangents)
        together = pulled(x, z)
        apart, _ = lax.scan(add, jax.tree.map(jnp.zeros_like, theta), (x, z))
        change = _norm(jax.tree.map(jnp.subtract, together, apart))
        return change / jnp.maximum(_norm(together), jnp.finfo(jnp.float32).tiny)

    with precision_of_products("highest"):
        return float(as_one_program(change, params, x))


def _norm(leaves: list[jax.Array]) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in leaves))
