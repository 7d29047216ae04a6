"""A variable that separates the parameters before it from the outputs: the bottleneck of a program.

If every path from some parameters to the outputs leads through one variable h, the program is two:
from these parameters to h, and from h and all other parameters to the outputs. The input of a
classifier's last layer is such a variable, and often has fewer entries than there are classes.
"""

import dataclasses
from collections.abc import Container, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp

from ntk_train._jax import Equation, Literal, Var, shape_of
from ntk_train.program.linear import LinearProgram


class Halves(NamedTuple):
    """A program cut at h.

    Attributes:
      equation: position of the equation that makes h, and of h among its outputs.
      leaves: indices of the parameters before h.
      inner: the program from these to h.
      outer: the program from h, its last tangent, and the other parameters to the outputs.
    """

    equation: tuple[int, int]
    leaves: frozenset[int]
    inner: LinearProgram
    outer: LinearProgram


def separators(program: LinearProgram) -> Iterator[Halves]:
    """Cuts at variables with fewer entries than the outputs, the last one of each size first."""
    outputs, sizes = shape_of(program.out).size, set[int]()
    for i in reversed(range(len(program.equations))):
        for j, v in enumerate(program.equations[i].outvars):
            size = shape_of(v).size
            if v not in program.linear or size >= outputs or size in sizes:
                continue
            halves = cut_at(program, (i, j))
            if halves is not None:
                sizes.add(size)
                yield halves


def cut_at(program: LinearProgram, position: tuple[int, int]) -> Halves | None:
    """The program cut at an output of an equation; None if that cannot be done.

    Theta = J_h Theta_h J_h^T + (the part of the leaves after h) holds if h is a real variable, if
    some leaves reach the outputs through h and through h alone, and if no leaf is on both sides:
    the terms between the two uses of such a leaf would be lost. Each of these conditions has a case
    in tests/bank/preconditions.py.
    """
    i, j = position
    if i >= len(program.equations) or j >= len(program.equations[i].outvars):
        return None
    h = program.equations[i].outvars[j]
    # A complex h has two real rows, of its real and its imaginary part; df/dh is one.
    if h not in program.linear or not jnp.issubdtype(shape_of(h).dtype, jnp.floating):
        return None
    before = _ancestors(program, h, ())
    after = _ancestors(program, program.out, {h})
    leaves = frozenset(leaf for leaf, v in enumerate(program.tangents) if v in before)
    if not leaves or h not in after or any(program.tangents[leaf] in after for leaf in leaves):
        return None

    def part(kept: Container[Var]) -> list[Equation]:
        return [
            equation
            for equation in program.equations
            if not program.is_linear(equation) or any(v in kept for v in equation.outvars)
        ]

    inner = dataclasses.replace(program, outputs=[h], equations=part(before))
    # One equation may make h and more; h itself comes from outside.
    outer = dataclasses.replace(program, inputs=[*program.inputs, h], equations=part(after - {h}))
    return Halves(position, leaves, inner, outer)


def _ancestors(program: LinearProgram, v: Any, ends: Container[Var]) -> set[Var]:
    """The linear variables that v depends on, itself included, without what is behind `ends`."""
    found = set() if isinstance(v, Literal) else {v}
    for equation in reversed(program.equations):
        own = [out for out in equation.outvars if out in found and out not in ends]
        if own:
            found.update(
                u for u in equation.invars if not isinstance(u, Literal) and u in program.linear
            )
    return found
