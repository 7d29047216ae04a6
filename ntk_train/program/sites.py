"""Where a parameter's tangent meets data: the sites at which the linear program can be cut.

A tangent that has only been rearranged, sliced or scaled by a number is a *view* of its leaf. An
equation that combines one view with data, and that a rule factors, is a *site*. A leaf all of whose
uses are sites, of one view or of views that do not overlap, is cut there; every other leaf is left
to the transposition of the program, which gives its Jacobian as it is: always right, and for biases
and scales the best.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Container, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._jax import Equation, Literal, Var, equation_values, shape_of, size_of
from ntk_train.program.block import Block, Scan
from ntk_train.program.linear import LinearProgram
from ntk_train.rules import Factors, Scale, factors_of, rule_of


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A rearranged part of one leaf's tangent.

    Attributes:
      leaf: index of the leaf.
      var: the variable that holds it.
      chain: the equations that made it, first to last, and which of their outputs.
      scales: numbers by which it was multiplied or divided.
      scans: the scans entered on the way, and for each whether the view is sliced by it.
    """

    leaf: int
    var: Var
    chain: tuple[tuple[Equation, int], ...] = ()
    scales: tuple[Scale, ...] = ()
    scans: tuple[tuple[Scan, bool], ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """One equation to cut after.

    Attributes:
      equation: the equation.
      view: of the weight that meets data there.
      factors: what the rule says.
      part: index of the part of the leaf that it uses, counted over the whole program.
    """

    equation: Equation
    view: View
    factors: Factors
    part: int = -1

    @property
    def r(self) -> int:
        """What input, weight and output share, iterations with a weight each included."""
        return self.factors.r * math.prod(s.length for s, sliced in self.view.scans if sliced)

    @property
    def t(self) -> int:
        """Positions that share the weight, iterations included."""
        return self.factors.t * math.prod(s.length for s, sliced in self.view.scans if not sliced)

    @property
    def weight_axes(self) -> Any:
        """Equal for sites of one view with the same theta labels."""
        return self.factors.weight_axes, tuple(sliced for _, sliced in self.view.scans)

    @property
    def theta_labels(self) -> Any:
        """Equal across programs for sites whose views of the leaf are made in the same way."""
        made = tuple((e.primitive, str(e.params), output) for e, output in self.view.chain)
        return self.weight_axes, made


def find_sites(program: LinearProgram) -> list[Site]:
    """The sites of a program, of those leaves alone that are used in no other way.

    Args:
      program: the linear program.

    Returns:
      The sites in the order of their equations, each with its part.

    Raises:
      RuleError: the rule of a site gives factors in other shapes than it says.
    """
    search = _Search([shape_of(v).dtype for v in program.tangents])
    # The variable of a cut is a tangent too, but no parameter: its derivative is wanted as it is.
    of_leaves = program.tangents[: program.num_theta]
    views = {var: View(leaf, var) for leaf, var in enumerate(of_leaves)}
    search.block(program, views, set(program.x))
    parts: list[list[Site]] = []
    for leaf, sites in itertools.groupby(
        sorted(search.sites, key=lambda site: site.view.leaf), key=lambda site: site.view.leaf
    ):
        disjoint = _disjoint_parts(program.tangents[leaf], list(sites))
        if leaf not in search.others and disjoint is not None:
            parts += disjoint
    number = {id(site): i for i, part in enumerate(parts) for site in part}
    return [
        dataclasses.replace(site, part=number[id(site)])
        for site in search.sites
        if id(site) in number
    ]


class _Search:
    """A walk over the blocks of a program, which collects sites and leaves used otherwise."""

    def __init__(self, dtypes: Sequence[Any]) -> None:
        self.sites: list[Site] = []
        self.others: set[int] = set()
        self._dtypes = dtypes  # of the leaves

    def block(self, block: Block, views: dict[Var, View], data: set[Var]) -> None:
        """Walks over a block, of whose inputs some are views and some depend on data."""
        for equation in block.equations:
            inputs = [v for v in equation.invars if not isinstance(v, Literal)]
            if any(v in data for v in inputs):
                data.update(equation.outvars)
            tangents = [v for v in inputs if v in block.linear]
            if not tangents:
                continue
            if id(equation) in block.scans:
                self._scan(equation, block.scans[id(equation)], views, data)
                continue
            new_views = _views_of(equation, tangents, views, data)
            if new_views:
                views.update(new_views)
                continue
            site = self._site(equation, tangents, views, data)
            if site is not None:
                self.sites.append(site)
            else:
                self.others.update(views[v].leaf for v in tangents if v in views)
        self.others.update(views[v].leaf for v in block.outputs if _in(v, views))

    def _scan(self, equation: Equation, scan: Scan, views: dict[Var, View], data: set[Var]) -> None:
        """Walks over the body: a constant is the same view, a slice is one of a stack of views."""
        inner_views: dict[Var, View] = {}
        inner_data: set[Var] = set()
        for i, (outer, inner) in enumerate(zip(equation.invars, scan.body.inputs, strict=True)):
            is_carry = scan.num_consts <= i < scan.num_consts + scan.num_carry
            if _in(outer, data):
                inner_data.add(inner)
            view = None if isinstance(outer, Literal) else views.get(outer)
            if view is None:
                continue
            if is_carry:
                self.others.add(view.leaf)
            else:
                level = (scan, i >= scan.num_consts)
                inner_views[inner] = dataclasses.replace(
                    view, var=inner, scans=(*view.scans, level)
                )
        self.block(scan.body, inner_views, inner_data)

    def _site(
        self, equation: Equation, tangents: list[Var], views: dict[Var, View], data: set[Var]
    ) -> Site | None:
        if len(tangents) != 1 or tangents[0] not in views or _is_complex(equation):
            return None
        factors = factors_of(equation, _position(equation, tangents[0]))
        if factors is None or equation.invars[factors.data] not in data:
            return None
        view = views[tangents[0]]
        dtype = jnp.promote_types(self._dtypes[view.leaf], jnp.float32)
        x, g = _at_most(dtype, factors.x), _at_most(dtype, factors.g)
        return Site(equation, view, dataclasses.replace(factors, x=x, g=g))


def _views_of(
    equation: Equation, tangents: Sequence[Var], views: dict[Var, View], data: set[Var]
) -> dict[Var, View]:
    """The views that an equation makes of another, if all it does is to rearrange or scale."""
    if len(tangents) != 1 or tangents[0] not in views:
        return {}
    if _is_complex(equation):
        return {}
    view, rule = views[tangents[0]], rule_of(equation)
    scales: Sequence[Scale] | None = None
    if rule.scales is not None:
        scales = rule.scales(equation, _position(equation, tangents[0]))
    elif rule.rearranges and _is_view(equation):
        scales = ()
    if scales is None or any(_in(scale.number, data) for scale in scales):
        return {}
    # In a scan, what is no literal is known in the body alone.
    if view.scans and any(isinstance(scale.number, Var) for scale in scales):
        return {}
    return {
        out: View(view.leaf, out, (*view.chain, (equation, i)), (*view.scales, *scales), view.scans)
        for i, out in enumerate(equation.outvars)
    }


def _is_view(equation: Equation) -> bool:
    """Whether a rearrangement takes each entry once at most, at places that no other input says."""
    size = sum(map(size_of, equation.outvars))
    return len(equation.invars) == 1 and size <= size_of(equation.invars[0])


def _position(equation: Equation, tangent: Var) -> int:
    """Where the one tangent stands among an equation's inputs."""
    return next(i for i, v in enumerate(equation.invars) if v is tangent)


def _is_complex(equation: Equation) -> bool:
    """Whether complex numbers go in or come out.

    The Jacobian in a real weight is then the real part of a product, which factors say nothing of.
    """
    variables = (*equation.invars, *equation.outvars)
    return any(jnp.issubdtype(shape_of(v).dtype, jnp.complexfloating) for v in variables)


def _at_most(dtype: Any, factor: Callable[[jax.Array], jax.Array]) -> Callable:
    """A factor in no wider a type than the Jacobian of its leaf has when it is contracted."""

    def narrowed(operand: jax.Array) -> jax.Array:
        y = factor(operand)
        if not jnp.issubdtype(y.dtype, jnp.floating):  # the factor x of a gather is its index
            return y
        bits = jnp.finfo(y.dtype).bits
        # Products of float8 with wider factors are not defined.
        return y.astype(dtype) if bits < 16 or bits > jnp.finfo(dtype).bits else y

    return narrowed


def _in(v: Any, variables: Container[Var]) -> bool:
    return not isinstance(v, Literal) and v in variables


def _disjoint_parts(leaf: Var, sites: list[Site]) -> list[list[Site]] | None:
    """Groups sites by the part of the leaf that they use, None if parts overlap.

    Sites that use the same entries in the same order with the same axes are positions that share a
    weight. Parts that do not overlap have no cross terms.
    """
    by_view: dict[Any, list[Site]] = {}
    for site in sites:
        by_view.setdefault((site.view.var, site.weight_axes), []).append(site)
    if len(by_view) == 1:
        return [sites]
    if any(site.view.scans for site in sites):
        return None
    groups: dict[Any, list[Site]] = {}
    used: dict[Any, np.ndarray] = {}
    for (_, axes), group in by_view.items():
        view = group[0].view
        places = _places(leaf, view)
        key = axes, places.shape, places.tobytes()
        groups.setdefault(key, []).extend(group)
        used[key] = places.ravel()
    count = np.zeros(shape_of(leaf).size, np.int8)
    for places in used.values():
        np.add.at(count, places, 1)
    return list(groups.values()) if count.max() <= 1 else None


def _places(leaf: Var, view: View) -> np.ndarray:
    """Which entry of the leaf stands where in a view, by numbers sent down its chain."""
    shape = shape_of(leaf).shape
    places: Any = np.arange(math.prod(shape)).reshape(shape)
    with jax.ensure_compile_time_eval():
        for equation, output in view.chain:
            if rule_of(equation).scales is None:  # what scales an entry leaves it at its place
                places = equation_values(equation, [places])[output]
    return np.asarray(places)
