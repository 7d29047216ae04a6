"""All df/dy of a program's sites from one transposition.

Every site's output is replaced by a probe, every leaf without sites stays an input; the transpose
of what is left, applied to the O one-hot cotangents, gives the cotangent of each site and the
Jacobian of each remaining leaf, and no cotangent of a cut weight is ever formed. A site in a scan
has a probe for each iteration.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ntk_train._jax import Equation, Literal, Var, shape_of
from ntk_train.program.block import Block, Scan
from ntk_train.program.evaluate import program_values, values_of
from ntk_train.program.linear import LinearProgram
from ntk_train.program.sites import Site
from ntk_train.rules.arithmetic import AS_WRITTEN, Arithmetic

_Values = dict[Var, Any]


class Derivatives(NamedTuple):
    """The derivatives of f at one input.

    Attributes:
      data: what each site's weight meets.
      factor_x: from the number of a site and its data to the factor x[r,t,a], or with the number
        of a piece to this part of a.
      backward: from a cotangent of f's output (in its shape) to the factors g[r,t,b] of the sites
        and, by its index, the derivative in each tangent that is not cut, in its shape.
    """

    data: list[jax.Array]
    factor_x: Callable[..., jax.Array]
    backward: Callable[[jax.Array], tuple[list[jax.Array], dict[int, jax.Array]]]


def derivatives(
    program: LinearProgram,
    sites: Sequence[Site],
    whole: Sequence[int],
    theta: Sequence[jax.Array],
    x: Sequence[jax.Array],
    arithmetics: tuple[Arithmetic, Arithmetic] = (AS_WRITTEN, AS_WRITTEN),
) -> Derivatives:
    """The derivatives of f at one input: nothing but the forward pass is computed at once.

    Args:
      program: of f at these shapes.
      sites: where to cut it.
      whole: indices of tangents that are not cut and whose derivatives are wanted as they are.
      theta: the parameters' leaves.
      x: the leaves of the input.
      arithmetics: of the forward pass and of the backward pass.

    Returns:
      Its `Derivatives`.
    """
    cut = {id(site.equation): i for i, site in enumerate(sites)}
    forward, of_backward = arithmetics
    known = _known(program, dict(zip(program.inputs, [*theta, *x], strict=False)), forward)
    operands = _operands(program, known, cut, sites, forward)

    def rest(probes: list[jax.Array], tangents: list[jax.Array]) -> jax.Array:
        inputs = {program.tangents[i]: t for i, t in zip(whole, tangents, strict=True)}
        (out,) = _linear(program, known | inputs, cut, dict(enumerate(probes)))
        return jnp.asarray(out)

    transpose = jax.linear_transpose(
        rest, [_probe(site) for site in sites], [shape_of(program.tangents[i]) for i in whole]
    )

    def factor_g(site: Site, cotangent: jax.Array) -> jax.Array:
        g = _over_scans(site, site.factors.g)(cotangent)
        for scale, is_divisor in site.view.scales:
            value = scale if isinstance(scale, float) else _read(known, scale)
            number = jnp.reshape(value, ()).astype(g.dtype)
            g = g / number if is_divisor else g * number
        return _iterations_as_positions(site, g)

    # Traced once more, so that its equations are evaluated in our way.
    transposed = jax.make_jaxpr(transpose, return_shape=True)(shape_of(program.out))
    (program_of_transpose, structure) = transposed

    def backward(cotangent: jax.Array) -> tuple[list[jax.Array], dict[int, jax.Array]]:
        outputs = program_values(
            program_of_transpose.jaxpr, program_of_transpose.consts, [cotangent], of_backward
        )
        of_probes, of_tangents = jax.tree.unflatten(jax.tree.structure(structure), outputs)
        gs = [factor_g(site, probe) for site, probe in zip(sites, of_probes, strict=True)]
        # A derivative that is known to be zero is a constant of NumPy's.
        return gs, dict(zip(whole, map(jnp.asarray, of_tangents), strict=True))

    def factor_x(i: int, data: jax.Array, piece: int | None = None) -> jax.Array:
        factors = sites[i].factors
        of_data = factors.x if piece is None else factors.pieces[piece]
        return _iterations_as_positions(sites[i], _over_scans(sites[i], of_data)(data))

    return Derivatives([operands[i] for i in range(len(sites))], factor_x, backward)


def _known(block: Block, env: _Values, arithmetic: Arithmetic = AS_WRITTEN) -> _Values:
    """The values of all variables that no tangent enters."""
    env = {**block.consts, **env}
    for equation in block.equations:
        if not block.is_linear(equation):
            values = [_read(env, v) for v in equation.invars]
            outputs = values_of(equation, values, arithmetic)
            env.update(zip(equation.outvars, outputs, strict=True))
    return env


def _operands(
    block: Block,
    env: _Values,
    cut: Mapping[int, int],
    sites: Sequence[Site],
    arithmetic: Arithmetic,
) -> dict[int, Any]:
    """The data at each site of a block, by the site's number; stacked by the scans around it."""
    operands = {}
    for equation in block.equations:
        if id(equation) in cut:
            i = cut[id(equation)]
            operands[i] = _read(env, equation.invars[sites[i].factors.data])
        elif _sites_inside(block, equation, cut):
            operands.update(_operands_of_scan(block, equation, env, cut, sites, arithmetic))
    return operands


def _operands_of_scan(
    block: Block,
    equation: Equation,
    env: _Values,
    cut: Mapping[int, int],
    sites: Sequence[Site],
    arithmetic: Arithmetic,
) -> dict[int, Any]:
    scan = block.scans[id(equation)]
    consts, slices = _inputs(block, equation, env, linear=False)

    def step(_: None, slices: dict[int, Any]) -> Any:
        known = _known(scan.body, _bind(scan, consts | slices), arithmetic)
        return None, _operands(scan.body, known, cut, sites, arithmetic)

    return _run(scan, step, None, slices)[1]


def _linear(
    block: Block, env: _Values, cut: Mapping[int, int], probes: Mapping[int, Any]
) -> list[Any]:
    """The outputs of a block from its known values, and from probes in place of its sites."""
    for equation in block.equations:
        if not block.is_linear(equation):
            continue
        if id(equation) in cut:
            env[equation.outvars[0]] = probes[cut[id(equation)]]
        elif inside := _sites_inside(block, equation, cut):
            own = {i: probes[i] for i in inside}
            outputs = _linear_scan(block, equation, env, cut, own)
            env.update(zip(equation.outvars, outputs, strict=True))
        elif all(isinstance(v, Literal) or v in env for v in equation.invars):
            values = [_read(env, v) for v in equation.invars]
            env.update(zip(equation.outvars, values_of(equation, values), strict=True))
        # What is left makes views of cut leaves, whose tangents are nowhere.
    return [_read(env, v) for v in block.outputs]


def _linear_scan(
    block: Block,
    equation: Equation,
    env: _Values,
    cut: Mapping[int, int],
    probes: Mapping[int, Any],
) -> list[Any]:
    """The outputs of a scan that has sites inside, with slices of their probes."""
    scan = block.scans[id(equation)]
    known_consts, known_slices = _inputs(block, equation, env, linear=False)
    consts, slices = _inputs(block, equation, env, linear=True)
    first, last = scan.num_consts, scan.num_consts + scan.num_carry
    init = [
        jnp.asarray(_read(env, outer), shape_of(inner).dtype)
        for outer, inner in zip(
            equation.invars[first:last], scan.body.inputs[first:last], strict=True
        )
    ]

    def step(state: Any, xs: Any) -> Any:
        carry, consts = state
        probes, slices, known_slices = xs
        known = _known(scan.body, _bind(scan, known_consts | known_slices))
        tangents = _bind(scan, consts | slices | dict(enumerate(carry, first)))
        outputs = _linear(scan.body, known | tangents, cut, probes)
        return (outputs[: scan.num_carry], consts), outputs[scan.num_carry :]

    # Linear constants travel in the carry and linear slices come before known ones: the order that
    # JAX asks of a scan to transpose it.
    (carry, _), stacked = _run(scan, step, (init, consts), (dict(probes), slices, known_slices))
    return [*carry, *stacked]


def _run(scan: Scan, step: Any, init: Any, xs: Any) -> Any:
    return lax.scan(step, init, xs, length=scan.length, reverse=scan.reverse, unroll=scan.unroll)


def _inputs(
    block: Block, equation: Equation, env: _Values, *, linear: bool
) -> tuple[dict[int, Any], dict[int, Any]]:
    """Constants and slices of a scan by their positions, those of tangents or the known ones."""
    scan = block.scans[id(equation)]
    values = {
        i: _read(env, v)
        for i, v in enumerate(equation.invars)
        if (isinstance(v, Literal) and not linear)
        or (not isinstance(v, Literal) and v in env and linear == (v in block.linear))
    }
    consts = {i: value for i, value in values.items() if i < scan.num_consts}
    slices = {i: v for i, v in values.items() if i >= scan.num_consts + scan.num_carry}
    return consts, slices


def _bind(scan: Scan, by_position: Mapping[int, Any]) -> _Values:
    return {scan.body.inputs[i]: value for i, value in by_position.items()}


def _sites_inside(block: Block, equation: Equation, cut: Mapping[int, int]) -> list[int]:
    """Numbers of the sites in the body of a scan, none of any other equation."""
    scan = block.scans.get(id(equation))
    if scan is None:
        return []
    inside = [cut[id(inner)] for inner in scan.body.equations if id(inner) in cut]
    deeper = [_sites_inside(scan.body, inner, cut) for inner in scan.body.equations]
    return sum(deeper, inside)


def _probe(site: Site) -> jax.ShapeDtypeStruct:
    """Shape of the outputs of a site, stacked by the scans around it."""
    one = shape_of(site.equation.outvars[0])
    lengths = [scan.length for scan, _ in site.view.scans]
    return jax.ShapeDtypeStruct((*lengths, *one.shape), one.dtype)


def _over_scans(site: Site, factor: Callable[[jax.Array], jax.Array]) -> Callable:
    """A factor's function, for data or cotangents stacked by the scans around its site."""
    for _ in site.view.scans:
        factor = jax.vmap(factor)
    return factor


def _iterations_as_positions(site: Site, factor: jax.Array) -> jax.Array:
    """Iterations with one weight join the positions t, those with a weight each the labels r.

    From [*others, *iterations, r, t, feature] to [*others, r, t, feature].
    """
    sliced = [s for _, s in site.view.scans]
    others = factor.ndim - 3 - len(sliced)
    levels = range(others, others + len(sliced))
    of_r = [axis for axis, s in zip(levels, sliced, strict=True) if s]
    of_t = [axis for axis, s in zip(levels, sliced, strict=True) if not s]
    r, t, feature = range(factor.ndim - 3, factor.ndim)
    moved = factor.transpose(*range(others), *of_r, r, *of_t, t, feature)
    return moved.reshape(*factor.shape[:others], site.r, site.t, factor.shape[-1])


def _read(env: _Values, v: Any) -> Any:
    return v.val if isinstance(v, Literal) else env[v]
