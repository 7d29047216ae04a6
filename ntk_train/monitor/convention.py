"""The convention of the kernel that a hook computes, and how exactly its products are rounded."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ntk_train._types import ApplyFn, KernelProblem
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.precision import kernel_product_bits, what_ran
from ntk_train.kernel.readout import name_of_outputs
from ntk_train.monitor.adapters import LinenFn, NnxFn
from ntk_train.spectrum.convention import Convention as Convention


def convention_of(
    f: ApplyFn,
    problem: KernelProblem,
    implementation: str,
    options: KernelOptions,
    kernel: Any,
    outputs: list[Any],
    of_f: int | None,
) -> Convention:
    """The convention of a kernel.

    Args:
      f: the network.
      problem: its kernel's.
      implementation: that was chosen.
      options: of the kernel.
      kernel: its shape and dtype.
      outputs: shapes and dtypes of the leaves of f's outputs.
      of_f: bits that products in f keep of their factors, `program.rounding.product_bits`.
    """
    param_filter = options.param_filter
    parameters = f"all {len(problem.paths)} leaves"
    if param_filter is not None:
        shown = ", ".join(problem.paths[:8]) + (", ..." if len(problem.paths) > 8 else "")
        parameters = f"{len(problem.paths)} leaves by {_name(param_filter)}: {shown}"
    independent = "independent (BatchNorm, if any, in eval mode)"
    return Convention(
        function=str(f) if isinstance(f, (LinenFn, NnxFn)) else _name(f),
        outputs=name_of_outputs(options.outputs),
        examples=independent if problem.batched else "coupled (as by BatchNorm in train mode)",
        parameters=parameters,
        num_parameters=sum(leaf.size for leaf in problem.theta),
        num_examples=kernel.shape[0],
        num_outputs=sum(math.prod(leaf.shape[1:]) for leaf in outputs),
        param_dtype=_dtypes(problem.theta),
        output_dtype=_dtypes(outputs),
        kernel_dtype=str(kernel.dtype),
        precision=what_ran(problem.precision, kernel.dtype, of_f),
        implementation=implementation,
    )


def rounding_of(
    precision: str | None,
    theta: Sequence[Any],
    kernel: Any,
    outputs: Sequence[Any],
    of_f: int | None,
    device: str | None = None,
) -> float:
    """Relative rounding error of an entry of the kernel.

    Rounding the Jacobian by eps_J leaves the kernel positive semidefinite and moves its smallest
    eigenvalue by about eps_J^2 lambda_max (Weyl's inequality for the singular values of J).

    Args:
      precision: of the kernel's products, as in `ntk_train.ntk`.
      theta: the differentiated leaves, or their shapes and dtypes.
      kernel: its shape and dtype.
      outputs: shapes and dtypes of the leaves of f's outputs.
      of_f: as of `convention_of`.
      device: as of `ntk_train.program.rounding.factor_bits`.
    """
    own = kernel_product_bits(precision, kernel.dtype, device)
    of_product = max(float(jnp.finfo(kernel.dtype).eps), 0.0 if own is None else 2.0 ** -(own + 1))
    dtypes = {leaf.dtype for leaf in (*theta, *outputs)}
    of_dtypes = max(float(jnp.finfo(dtype).eps) for dtype in dtypes)
    of_jacobian = max(of_dtypes, 0.0 if of_f is None else 2.0**-of_f)
    rows = kernel.shape[0] * (kernel.shape[1] if kernel.ndim == 4 else 1)
    return max(of_product, of_jacobian**2 / rows)


def _dtypes(leaves: list[Any]) -> str:
    return ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))


def _name(f: Any) -> str:
    return getattr(f, "__qualname__", type(f).__name__)
