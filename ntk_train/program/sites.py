"""Where a parameter's tangent meets data: the sites at which the linear program can be cut.

A tangent that has only been reshaped, transposed, sliced or scaled by a number is a *view* of its
leaf. An equation that combines one view with data, and that a rule factors, is a *site*. A leaf
all of whose uses are sites of one view is cut there; every other leaf is left to the transposition
of the program, which gives its Jacobian as it is: always right, and for biases and scales the best.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jax import lax

from ntk_train._jax import Equation, Literal, Var, shape_of
from ntk_train.program.linear import LinearProgram


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """One equation to cut after.

    Attributes:
      equation: the equation.
      weight: position of the view among its inputs.
      leaf: index of the parameter's leaf.
      view: the view's variable; sites that share it see the same weight.
      scales: variables of numbers by which the view was multiplied.
      factors: what the rule says.
    """

    equation: Equation
    weight: int
    leaf: int
    view: Var
    scales: tuple[Any, ...]
    factors: Any


@dataclasses.dataclass(frozen=True)
class _View:
    leaf: int
    scales: tuple[Any, ...] = ()


_STRUCTURAL = {
    lax.reshape_p,
    lax.transpose_p,
    lax.squeeze_p,
    lax.copy_p,
    lax.convert_element_type_p,
    lax.neg_p,
    lax.rev_p,
}


def find_sites(program: LinearProgram, factors_of: Callable[[Equation, int], Any]) -> list[Site]:
    """The sites of a program, of those leaves alone that are used in no other way.

    Args:
      program: the linear program.
      factors_of: from an equation and a position to the rule's factors, or None.

    Returns:
      The sites, in the order of the equations.
    """
    data = set(program.x)
    views = {var: _View(leaf) for leaf, var in enumerate(program.tangents)}
    sites: list[Site] = []
    others: set[int] = set()  # leaves that are used in some other way
    for equation in program.equations:
        inputs = [v for v in equation.invars if not isinstance(v, Literal)]
        tangents = [v for v in inputs if v in program.linear]
        if any(v in data for v in inputs):
            data.update(equation.outvars)
        if not tangents:
            continue
        view = _view_of(equation, tangents, views, data)
        if view is not None:
            views[equation.outvars[0]] = view
            continue
        site = _site_of(equation, tangents, views, data, factors_of)
        if site is not None:
            sites.append(site)
        else:
            others.update(views[v].leaf for v in tangents if v in views)
    if not isinstance(program.out, Literal) and program.out in views:
        others.add(views[program.out].leaf)
    for leaf in {site.leaf for site in sites}:
        own = [site for site in sites if site.leaf == leaf]
        if len({(site.view, site.factors.weight_axes) for site in own}) > 1:
            others.add(leaf)
    return [site for site in sites if site.leaf not in others]


def _view_of(
    equation: Equation, tangents: Sequence[Var], views: dict[Var, _View], data: set[Var]
) -> _View | None:
    """The view that an equation makes of another, if all it does is to rearrange or scale."""
    if len(tangents) != 1 or tangents[0] not in views or len(equation.outvars) != 1:
        return None
    view = views[tangents[0]]
    if equation.primitive in _STRUCTURAL:
        return view
    if equation.primitive is lax.broadcast_in_dim_p:
        same_size = shape_of(equation.outvars[0]).size == shape_of(tangents[0]).size
        return view if same_size else None
    if equation.primitive is lax.mul_p:
        other = equation.invars[1 if equation.invars[0] is tangents[0] else 0]
        is_number = shape_of(other).size == 1 and (isinstance(other, Literal) or other not in data)
        return _View(view.leaf, (*view.scales, other)) if is_number else None
    return None


def _site_of(
    equation: Equation,
    tangents: Sequence[Var],
    views: dict[Var, _View],
    data: set[Var],
    factors_of: Callable[[Equation, int], Any],
) -> Site | None:
    if len(tangents) != 1 or tangents[0] not in views:
        return None
    weight = list(equation.invars).index(tangents[0])
    factors = factors_of(equation, weight)
    if factors is None or equation.invars[factors.data] not in data:
        return None
    view = views[tangents[0]]
    return Site(equation, weight, view.leaf, tangents[0], view.scales, factors)
