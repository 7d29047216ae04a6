"""Costs of what is around the contractions: derivatives, and the push through a bottleneck.

What each way to contract a parameter costs stands with it, in `ways`. What decides is time:
operations, and numbers that go to memory and back.
"""

from collections.abc import Sequence

from ntk_train.kernel.machine import Cost
from ntk_train.kernel.plan import Plan
from ntk_train.kernel.ways import Setting
from ntk_train.program.linear import LinearProgram
from ntk_train.program.sites import Site


def of_derivatives(
    setting: Setting,
    programs: tuple[LinearProgram, LinearProgram],
    sites: tuple[Sequence[Site], Sequence[Site]],
) -> Cost:
    """Of one backward pass for each row, without what would end in the leaves that are cut."""
    operations, problem = 0, setting.problem
    sides = (problem.layout.left, problem.layout.right)
    for side in (0,) if problem.x2 is None else (0, 1):
        saved = sum(
            2 * site.r * site.t * site.factors.b * (1 if site.factors.one_hot else site.factors.a)
            for site in sites[side]
        )
        operations += setting.size(sides[side]) * max(programs[side].operations - saved, 0)
    return Cost(operations, 0)


def of_push(setting: Setting, inner: Plan) -> Cost:
    """Of J_h Theta_h J_h^T."""
    n, h, m, i = (inner.labels[label] for label in inner.problem.layout.out)
    layout = setting.problem.layout
    left, right = setting.size(layout.left), setting.size(layout.right)
    once = left * m * i
    return Cost(2 * once * h + 2 * left * right * i, 2 * (n * h * m * i + once + left * right))
