"""How to contract each parameter's factored Jacobian: pure arithmetic on static shapes.

A leaf that is cut has J[.,r,a,b] = sum_t g[.,r,t,b] x[.,r,t,a], and its part of the kernel comes
from one of

    jacobian   form J on both sides, then one product of J with J
    half_gram  X = x x^T over a, Z = X g over t, then one product of Z with g
    full_gram  (x x^T over a) times (g g^T over b), entry by entry, summed over t, s
    identity   x x^T over a, on the diagonal of the outputs: the last layer, whose g is one-hot

or it is not cut (`transposed`) and its J comes from the transposition of the program. For a dense
layer (T = 1) the full Gram costs N^2 (A + O^2 B) in place of N^2 O^2 A B; for a convolution at
large T the Jacobian is smaller than any Gram. (R. Novak et al., *Fast Finite Width Neural Tangent
Kernel*, ICML 2022, section 3.3 and table 2.) What decides is time: operations, and numbers that
go to memory and back.
"""

import math
from collections.abc import Mapping, Sequence

from ntk_train._types import KernelProblem
from ntk_train.kernel.machine import Cost, Machine
from ntk_train.kernel.plan import Plan, Sizes, examples_of
from ntk_train.program.linear import LinearProgram
from ntk_train.program.sites import Site


def ways(problem: KernelProblem, machine: Machine, sizes: Sizes) -> dict[str, Cost]:
    """Costs of each way to contract one leaf."""
    layout, of = problem.layout, sizes.of
    left, right, (n, m) = layout.left, layout.right, examples_of(problem)
    both = left + right
    form = of(left + "rtab") + (0 if problem.x2 is None else of(right + "rsab"))
    formed = of(left + "rab") + of(right + "rab")
    gram_x = of(n + m + "rtsa")
    kept = "".join(label for label in both if label in layout.out + n + m)
    kernel = 2 * of(layout.out)
    z, gram = of(left + m + "rsb"), of(kept + "rts")
    small = (
        is_small(problem, machine, sizes.labels, sizes.of("rab")),
        is_small(problem, machine, sizes.labels, sizes.of("rsb")),
    )
    return {
        "jacobian": Cost(2 * (form + of(both + "rab")), 2 * formed + (0 if small[0] else kernel)),
        "half_gram": Cost(
            2 * (gram_x + of(left + m + "rtsb") + of(both + "rsb")),
            2 * z + (0 if small[1] else kernel),
        ),
        "full_gram": Cost(2 * (gram_x + of(both + "rtsb") + of(kept + "rts")), 2 * gram + kernel),
    }


def is_stacked(problem: KernelProblem, machine: Machine, sizes: Sizes) -> bool:
    """Whether copying a layer's factors costs less than to start the products of its full Gram."""
    left, right = (sizes.of(side) for side in (problem.layout.left, problem.layout.right))
    width = sizes.of("rtb")
    if not machine.batches:
        # Without any product of matrices what is spared is a few loops: 1.3 times as fast at a
        # width of 256, and slower at 1024.
        return left == right == sizes.t == sizes.s == 1 and width <= machine.launch // 32
    return left * width <= 5 * machine.launch


def is_small(
    problem: KernelProblem, machine: Machine, labels: Mapping[str, int], width: int
) -> bool:
    """Whether copying a Jacobian of a width costs less than one more product for the kernel."""
    of_kernel, rows = (num_rows(labels, side) for side in (problem.layout.out, problem.layout.left))
    return rows * width <= machine.launch + of_kernel


def of_derivatives(
    problem: KernelProblem,
    labels: Mapping[str, int],
    programs: tuple[LinearProgram, LinearProgram],
    sites: tuple[Sequence[Site], Sequence[Site]],
) -> Cost:
    """Of one backward pass for each row, without what would end in the leaves that are cut."""
    operations = 0
    sides = (problem.layout.left, problem.layout.right)
    for side in (0,) if problem.x2 is None else (0, 1):
        saved = sum(
            2 * site.r * site.t * site.factors.b * (1 if site.factors.one_hot else site.factors.a)
            for site in sites[side]
        )
        operations += num_rows(labels, sides[side]) * max(programs[side].operations - saved, 0)
    return Cost(operations, 0)


def of_push(problem: KernelProblem, labels: Mapping[str, int], inner: Plan) -> Cost:
    """Of J_h Theta_h J_h^T."""
    n, h, m, i = (inner.labels[label] for label in inner.problem.layout.out)
    left, right = (num_rows(labels, side) for side in (problem.layout.left, problem.layout.right))
    once = left * m * i
    return Cost(2 * once * h + 2 * left * right * i, 2 * (n * h * m * i + once + left * right))


def num_rows(labels: Mapping[str, int], side: str) -> int:
    """Rows of the Jacobian of one side, or entries of the kernel."""
    return math.prod(labels[label] for label in side)
