"""All df/dy of a program's sites from one transposition.

Every site's output is replaced by a probe, every leaf without sites stays an input; the transpose
of what is left, applied to the O one-hot cotangents, gives the cotangent of each site and the
Jacobian of each remaining leaf, and no cotangent of a cut weight is ever formed.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ntk_train._jax import Literal, Var, equation_values, shape_of
from ntk_train.program.linear import LinearProgram
from ntk_train.program.sites import Site


def derivatives(
    program: LinearProgram,
    sites: Sequence[Site],
    theta: Sequence[jax.Array],
    x: Sequence[jax.Array],
) -> tuple[list[tuple[jax.Array, jax.Array]], dict[int, jax.Array]]:
    """The factors of each site, and the Jacobians of the leaves without one, for one input.

    Args:
      program: of f at these shapes.
      sites: where to cut it.
      theta: the parameters' leaves.
      x: the leaves of the input.

    Returns:
      For each site (x[r,t,a], g[*out,r,t,b]), and for each leaf without sites its Jacobian
      [*out, *leaf.shape], where out are the axes of f's output.
    """
    known = dict(program.consts)
    known.update(zip(program.theta, theta, strict=True))
    known.update(zip(program.x, x, strict=True))
    for equation in program.equations:
        if not any(v in program.linear for v in equation.outvars):
            values = [_read(known, v) for v in equation.invars]
            known.update(zip(equation.outvars, equation_values(equation, values), strict=True))

    cut = {id(site.equation): i for i, site in enumerate(sites)}
    of_sites = {site.leaf for site in sites}
    whole = [i for i in range(len(theta)) if i not in of_sites]

    def rest(probes: list[jax.Array], tangents: list[jax.Array]) -> jax.Array:
        env = dict(known)
        env.update((program.tangents[i], t) for i, t in zip(whole, tangents, strict=True))
        for equation in program.equations:
            if id(equation) in cut:
                env[equation.outvars[0]] = probes[cut[id(equation)]]
            elif equation.outvars[0] in program.linear and _has_inputs(equation, env):
                values = [_read(env, v) for v in equation.invars]
                env.update(zip(equation.outvars, equation_values(equation, values), strict=True))
        return _read(env, program.out)

    probes = [shape_of(site.equation.outvars[0]) for site in sites]
    tangents = [shape_of(program.theta[i]) for i in whole]
    out = shape_of(program.out)
    transpose = jax.linear_transpose(rest, probes, tangents)
    one_hot = jnp.eye(out.size, dtype=out.dtype).reshape(out.size, *out.shape)
    of_probes, of_tangents = jax.vmap(transpose)(one_hot)

    def with_outputs(rows: jax.Array) -> jax.Array:
        return rows.reshape(*out.shape, *rows.shape[1:])

    factors = []
    for site, cotangent in zip(sites, of_probes, strict=True):
        g = jax.vmap(site.factors.g)(cotangent)
        for scale in site.scales:
            g = g * _read(known, scale).astype(g.dtype).reshape(())
        data = _read(known, site.equation.invars[site.factors.data])
        factors.append((site.factors.x(data), with_outputs(g)))
    return factors, {i: with_outputs(j) for i, j in zip(whole, of_tangents, strict=True)}


def _read(env: dict[Var, Any], v: Any) -> Any:
    return v.val if isinstance(v, Literal) else env[v]


def _has_inputs(equation: Any, env: dict[Var, Any]) -> bool:
    """False for views of cut leaves, whose tangents are nowhere."""
    return all(isinstance(v, Literal) or v in env for v in equation.invars)
