"""The choice of an implementation by the operations that each would take.

XLA counts the operations of each lowered program, as the paper does at compile time (R. Novak,
J. Sohl-Dickstein, S. S. Schoenholz, *Fast Finite Width Neural Tangent Kernel*, ICML 2022,
section 5); nothing is compiled or run for it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from ntk_train._jax import lowered_flops
from ntk_train._types import KernelProblem
from ntk_train.errors import KernelInputError
from ntk_train.kernel.jacobian_contraction import jacobian_contraction
from ntk_train.kernel.ntk_vector_products import ntk_vector_products

_STRUCTURED_PENDING = (
    "implementation='structured' is not available yet; use 'auto', 'jacobian_contraction' or "
    "'ntk_vector_products'."
)

IMPLEMENTATIONS: dict[str, Callable[[KernelProblem], jax.Array]] = {
    "jacobian_contraction": jacobian_contraction,
    "ntk_vector_products": ntk_vector_products,
}


def flops_by_implementation(problem: KernelProblem) -> dict[str, float | None]:
    """Operations of each implementation, None where it does not apply or XLA does not count."""

    def flops(implementation: Callable[[KernelProblem], jax.Array]) -> float | None:
        def program(theta: Any, x1: Any, x2: Any) -> jax.Array:
            return implementation(dataclasses.replace(problem, theta=theta, x1=x1, x2=x2))

        try:
            return lowered_flops(program, problem.theta, problem.x1, problem.x2)
        except TypeError:  # a custom_vjp has no forward mode, which NTK-vector products need
            return None

    return {name: flops(implementation) for name, implementation in IMPLEMENTATIONS.items()}


def implementation_for(problem: KernelProblem, implementation: str) -> str:
    """Name of the implementation to use: the one asked for, or for "auto" the cheapest.

    Where one cannot be counted that is Jacobian contraction, which needs reverse mode alone.

    Raises:
      KernelInputError: there is no such implementation.
      NotImplementedError: it is "structured".
    """
    if implementation == "structured":
        raise NotImplementedError(_STRUCTURED_PENDING)
    if implementation != "auto" and implementation not in IMPLEMENTATIONS:
        msg = f"implementation={implementation!r} is none of {['auto', *IMPLEMENTATIONS]}."
        raise KernelInputError(msg)
    if implementation != "auto":
        return implementation
    counts = flops_by_implementation(problem)
    known = {name: count for name, count in counts.items() if count is not None}
    if len(known) < len(counts):
        return "jacobian_contraction"
    return min(known, key=known.__getitem__)
