"""How many numbers a backward pass holds, counted from the shapes of a linear program."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from ntk_train._jax import Equation, Literal, Var, size_of
from ntk_train.program.block import Block
from ntk_train.program.linear import LinearProgram


class Pass(NamedTuple):
    """One forward pass of one input, and one backward pass from one of its outputs.

    Attributes:
      activations: numbers that the way back needs of the way forward.
      cotangents: the most numbers that are there at once on the way back, what is made of them by
        the operation under way included. The cotangents of parameters are not counted.
    """

    activations: int
    cotangents: int


def pass_of(program: LinearProgram) -> Pass:
    """Counts the numbers of one pass."""
    # Of a program that is cut, the last tangent is that of h, which is no parameter.
    parameters = program.tangents[: program.num_theta]
    data, of_parameters = _spread(program, set(program.x), set(parameters))
    read = {
        v
        for equation in program.equations
        if program.is_linear(equation)
        for v in _variables(equation.invars)
        if v in data and v not in program.linear
    }
    return Pass(_size(read), _most_cotangents(program, data, of_parameters))


def _spread(block: Block, data: set[Var], of_parameters: set[Var]) -> tuple[set[Var], set[Var]]:
    """What depends on the input, and the tangents that depend on those of parameters alone."""
    for equation in block.equations:
        inputs = _variables(equation.invars)
        with_data = any(v in data for v in inputs)
        if with_data:
            data.update(equation.outvars)
        elif all(v in of_parameters for v in inputs if v in block.linear):
            of_parameters.update(v for v in equation.outvars if v in block.linear)
    return data, of_parameters


def _most_cotangents(block: Block, data: set[Var], of_parameters: set[Var]) -> int:
    def own(variables: Iterable[Any]) -> set[Var]:
        return {v for v in _variables(variables) if v in block.linear and v not in of_parameters}

    live = own(block.outputs)
    held = _size(live)
    most = held
    for equation in reversed(block.equations):
        made, used = own(equation.outvars), own(equation.invars)
        if not made:
            continue
        new = (made | used) - live
        live |= new
        held += _size(new)
        under_way = max([_size([v]) for v in made | used], default=0)
        most = max(most, held + under_way + _inside(block, equation, data, of_parameters))
        held -= _size(made)
        live -= made
    return most


def _inside(block: Block, equation: Equation, data: set[Var], of_parameters: set[Var]) -> int:
    """The cotangents of one iteration of a scan, 0 of any other equation."""
    scan = block.scans.get(id(equation))
    if scan is None:
        return 0
    pairs = [
        (outer, inner)
        for outer, inner in zip(equation.invars, scan.body.inputs, strict=True)
        if not isinstance(outer, Literal)
    ]
    inner_data, inner_parameters = (
        {inner for outer, inner in pairs if outer in outside} for outside in (data, of_parameters)
    )
    return _most_cotangents(scan.body, *_spread(scan.body, inner_data, inner_parameters))


def _variables(variables: Iterable[Any]) -> list[Var]:
    return [v for v in variables if not isinstance(v, Literal)]


def _size(variables: Iterable[Var]) -> int:
    return sum(size_of(v) for v in variables)
