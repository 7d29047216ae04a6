"""The choice of an implementation: the one whose plan takes the fewest operations.

The paper has XLA count the operations of each compiled program (R. Novak, J. Sohl-Dickstein,
S. S. Schoenholz, *Fast Finite Width Neural Tangent Kernel*, ICML 2022, section 5). Here the plan
counts them from shapes, for all alike, so that nothing is compiled and a loop's body counts as
often as it runs.
"""

from collections.abc import Callable

import jax

from ntk_train._jax import has_forward_mode
from ntk_train._types import Groups, KernelProblem
from ntk_train.errors import KernelInputError
from ntk_train.kernel.jacobian_contraction import jacobian_contraction
from ntk_train.kernel.ntk_vector_products import ntk_vector_products
from ntk_train.kernel.structured import Prepared, prepare, structured

IMPLEMENTATIONS: dict[str, Callable[[KernelProblem, Groups], list[jax.Array]]] = {
    "structured": structured,
    "jacobian_contraction": jacobian_contraction,
    "ntk_vector_products": ntk_vector_products,
}


def kernel_of(problem: KernelProblem, implementation: str) -> jax.Array:
    """The kernel of all leaves together, by the implementation asked for."""
    everything = range(len(problem.theta))
    (kernel,) = IMPLEMENTATIONS[implementation_for(problem, implementation)](problem, [everything])
    return kernel


def check_implementation(implementation: str) -> None:
    """Raises a KernelInputError where there is no such implementation."""
    if implementation not in ("auto", *IMPLEMENTATIONS):
        msg = f"implementation={implementation!r} is none of {['auto', *IMPLEMENTATIONS]}."
        raise KernelInputError(msg)


def implementation_for(problem: KernelProblem, implementation: str) -> str:
    """Name of the implementation to use: the one asked for, or for "auto" the cheapest.

    Raises:
      KernelInputError: there is no such implementation.
    """
    check_implementation(implementation)
    if implementation != "auto":
        return implementation
    return cheapest(prepare(problem))


def cheapest(prepared: Prepared) -> str:
    """Name of the implementation that takes the fewest operations."""
    operations = dict(prepared.plan.operations)
    if not has_forward_mode(prepared.program1.equations):
        del operations["ntk_vector_products"]
    least = min(operations, key=operations.__getitem__)
    # The others run as many small passes, at a lower rate than the products of the plan.
    return least if 2 * operations[least] < operations["structured"] else "structured"
