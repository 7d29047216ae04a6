"""The kernel from the rows of both sides, each product in its way.

    Theta[n,o,m,p] = sum_{r,t,s,a,b}  g1[n,o,r,t,b] x1[n,r,t,a]  g2[m,p,r,s,b] x2[m,r,s,a]

What is summed first, and whether the Jacobians g x are formed, is up to the ways.
"""

import jax

from ntk_train.kernel.labelled import Labelled, product
from ntk_train.kernel.plan import Plan
from ntk_train.kernel.rows import Rows


def contract(plan: Plan, rows1: Rows, rows2: Rows) -> list[jax.Array]:
    """The kernel of each group of leaves, in the axes of the layout.

    Args:
      plan: says what the rows are and how to contract them.
      rows1: the side of x1, or a block of its examples.
      rows2: the side of x2.
    """
    kernels: dict[int, jax.Array] = {}
    for own, left, right in zip(plan.products, rows1.products, rows2.products, strict=True):
        part = own.way.contract(plan.setting, left, right).values
        kernels[own.group] = kernels[own.group] + part if own.group in kernels else part
    return [kernels[group] for group in plan.groups]


def pushed(plan: Plan, inner: Plan, rows1: Rows, kernel: jax.Array, rows2: Rows) -> jax.Array:
    """J_h Theta_h J_h^T in the axes of the layout.

    Args:
      plan: of what is outside.
      inner: of Theta_h.
      rows1: with J_h of x1.
      kernel: Theta_h.
      rows2: with J_h of x2.
    """
    problem, layout, of_h = plan.problem, plan.problem.layout, inner.problem.layout
    assert rows1.of_h is not None
    assert rows2.of_h is not None
    j1 = Labelled(layout.left + of_h.left[1:], rows1.of_h)
    j2 = Labelled(layout.right + of_h.right[1:], rows2.of_h)
    if len(rows2.of_h) and not plan.programs[1].depends_on_x(len(problem.theta)):
        # Of a linear last layer: a plain product, in place of one for each example.
        j2 = Labelled(j2.labels[1:], rows2.of_h[0])
    theta_h = Labelled(of_h.out, kernel)
    half = product(layout.left + of_h.right, j1, theta_h, plan.setting.stages.gram)
    return product(layout.out, half, j2, plan.setting.stages.gram).values
