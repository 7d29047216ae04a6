"""The choice of an implementation: the one whose plan takes the least time.

The paper has XLA count the operations of each compiled program (R. Novak, J. Sohl-Dickstein,
S. S. Schoenholz, *Fast Finite Width Neural Tangent Kernel*, ICML 2022, section 5). Here the plan
counts operations and memory traffic from shapes, for all alike, so that nothing is compiled and a
loop's body counts as often as it runs.
"""

import dataclasses
import math
import warnings

import jax

from ntk_train._jax import has_forward_mode, shape_of, source_line
from ntk_train._types import ApplyFn, Groups, KernelProblem, PyTree
from ntk_train.errors import UnfactoredError, UnfactoredWarning
from ntk_train.kernel.groups import groups_of
from ntk_train.kernel.jacobian_contraction import jacobian_contraction
from ntk_train.kernel.machine import Cost
from ntk_train.kernel.memory import is_bounded
from ntk_train.kernel.narrow import widened
from ntk_train.kernel.ntk_vector_products import ntk_vector_products
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.plan import Plan
from ntk_train.kernel.problem import make_problem
from ntk_train.kernel.structured import prepare, structured, traced_shapes
from ntk_train.kernel.whole import usual_promotion

REFERENCES = {
    "jacobian_contraction": jacobian_contraction,
    "ntk_vector_products": ntk_vector_products,
}


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A problem and the implementation that is to compute it.

    Attributes:
      problem: what to compute.
      groups: the leaves whose kernels are wanted apart.
      implementation: the one asked for, or for "auto" the cheapest.
      plan: of the structured one, where it was needed.
    """

    problem: KernelProblem
    groups: Groups
    implementation: str
    plan: Plan | None

    def kernels(self) -> list[jax.Array]:
        """The kernel of each group."""
        if self.implementation in REFERENCES:
            return REFERENCES[self.implementation](self.problem, self.groups)
        assert self.plan is not None
        return structured(self.plan)


def resolve(
    f: ApplyFn,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None,
    options: KernelOptions,
    model_state: PyTree = None,
) -> tuple[Resolved, list[str]]:
    """What `ntk` would compute for the same arguments, by which implementation, in which groups."""
    with usual_promotion():
        problem = make_problem(f, params, x1, x2, options, model_state=model_state)
        groups = groups_of(problem.paths, options.per_layer)
        resolved = choose(problem, list(groups.values()), options)
    return resolved, list(groups)


def choose(problem: KernelProblem, groups: Groups, options: KernelOptions) -> Resolved:
    """Chooses an implementation, where that is left open.

    Raises:
      UnfactoredError: with `strict`, where the structured one cannot factor a parameter.
    """
    problem, name = widened(problem), options.implementation
    if name in REFERENCES:
        return Resolved(problem, groups, name, None)
    plan = prepare(problem, groups)
    if name == "auto":
        name = cheapest(problem, plan)
    if options.strict or name == "structured":
        _report_unfactored(problem, plan, options.strict)
    return Resolved(problem, groups, name, plan)


def _report_unfactored(problem: KernelProblem, plan: Plan, strict: bool) -> None:
    """Says which parameters are not factored: large ones in a warning, any in an error."""
    least = 0 if strict else _LARGE
    uses = [
        f"{part.path} {problem.theta[part.leaf].shape}: {equation.primitive.name} of "
        f"{', '.join(str(shape_of(v).shape) for v in equation.invars)} at "
        f"{source_line(equation) or 'an unknown line'}"
        for part in plan.all_parts
        for equation in part.unfactored
        if problem.theta[part.leaf].size >= least
    ]
    if not uses:
        return
    listed = "\n  ".join(uses[:10] + ([f"and {len(uses) - 10} more"] if len(uses) > 10 else []))
    msg = f"no rule factors these uses of parameters, so that they cost more time:\n  {listed}\n"
    if strict:
        msg = f"strict=True, but {msg}Rewrite them, or leave out strict=True."
        raise UnfactoredError(msg)
    warnings.warn(f"{msg}The kernel is right. See ntk_train.explain.", UnfactoredWarning, 2)


_LARGE = 4096  # of fewer numbers the whole Jacobian is small


def kernel_of(problem: KernelProblem, options: KernelOptions) -> jax.Array:
    """The kernel of all leaves together, by the implementation asked for."""
    everything = range(len(problem.theta))
    (kernel,) = choose(problem, [everything], options).kernels()
    return kernel


def costs_of(problem: KernelProblem, plan: Plan) -> dict[str, Cost]:
    """The cost of each implementation that can compute the problem, by its plan's count."""
    costs = {"structured": plan.cost, **reference_costs(plan)}
    if not _has_forward_mode(problem):
        del costs["ntk_vector_products"]
    return costs


def _has_forward_mode(problem: KernelProblem) -> bool:
    """Whether f has Jacobian-vector products: not with a `custom_vjp`.

    f is asked rather than its linear program, which no longer has what a derivative is not taken
    of, as a `custom_vjp` that leads to an index.
    """

    def product(theta: list[jax.Array], x: PyTree) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(lambda theta: problem.f1(theta, x), (theta,), (theta,))

    shapes = traced_shapes(problem, problem.x1)
    return has_forward_mode(jax.make_jaxpr(product)(problem.theta, shapes).eqns)


def reference_costs(plan: Plan) -> dict[str, Cost]:
    """Costs of the two plain implementations, by the same count."""
    problem, labels, layout = plan.problem, plan.labels, plan.problem.layout
    left, right = map(plan.setting.size, (layout.left, layout.right))
    n, _ = problem.example_labels
    sides = [left] if problem.x2 is None else [left, right]
    a_pass = [_operations(plan, side) for side in (0, 1)]
    backward = sum(rows * operations for rows, operations in zip(sides, a_pass, strict=False))
    num_parameters = sum(leaf.size for leaf in problem.theta)
    forward = right * (labels[n] if n and n not in layout.shared else 1) * a_pass[0]
    return {
        "jacobian_contraction": Cost(
            backward + 2 * math.prod(labels.values()) * num_parameters,
            2 * num_parameters * sum(sides),
        ),
        "ntk_vector_products": Cost(right * a_pass[1] + forward, 2 * right * num_parameters),
    }


def _operations(plan: Plan, side: int) -> int:
    """Of one backward pass."""
    return plan.programs[side].operations + (_operations(plan.inner, side) if plan.inner else 0)


def cheapest(problem: KernelProblem, plan: Plan) -> str:
    """Name of the implementation that takes the least time by the plan's count."""
    if is_bounded(plan):
        return "structured"  # the others have no less in memory
    times = {name: cost.time(plan.machine) for name, cost in reference_costs(plan).items()}
    least = plan.cost.time(plan.machine) / _SLOWER
    for name in sorted(times, key=times.__getitem__):
        if times[name] >= least:
            break
        if name != "ntk_vector_products" or _has_forward_mode(problem):
            return name
    return "structured"


_SLOWER = 2  # operations of the plain implementations take as long: they run as many small passes
