"""Uses of a weight that no rule factors: right all the same, but with a Jacobian in full size.

A tangent that depends on parameters alone (a view, a sum, a standardised weight) meets data or an
activation at some equation. Where that equation works entry by entry, as for biases and scales, the
Jacobian of the leaf has few numbers. Where it contracts, as a product or a convolution does, a
factored Jacobian could have had fewer; these uses are listed here.
"""

from collections.abc import Iterator

from ntk_train._jax import Equation, Literal, Var
from ntk_train.program.block import Block
from ntk_train.program.linear import LinearProgram
from ntk_train.rules import rule_of


def unfactored_uses(program: LinearProgram) -> Iterator[tuple[int, Equation]]:
    """Leaves and the equations that contract them; those that are cut have a rule there."""
    of_leaves = program.tangents[: program.num_theta]
    derived = {v: frozenset({leaf}) for leaf, v in enumerate(of_leaves)}
    return _uses(program, derived, set(program.x))


def _uses(
    block: Block, derived: dict[Var, frozenset[int]], data: set[Var]
) -> Iterator[tuple[int, Equation]]:
    """`derived` are tangents of parameters alone; `data` is what depends on the input."""
    for equation in block.equations:
        inputs = [v for v in equation.invars if not isinstance(v, Literal)]
        with_data = any(v in data for v in inputs)
        if with_data:
            data.update(equation.outvars)
        own = frozenset[int]().union(*(derived.get(v, frozenset()) for v in inputs))
        if not own:
            continue
        scan = block.scans.get(id(equation))
        if scan is not None:
            pairs = [
                (outer, inner)
                for outer, inner in zip(equation.invars, scan.body.inputs, strict=True)
                if not isinstance(outer, Literal)
            ]
            inside = {inner: derived[outer] for outer, inner in pairs if outer in derived}
            yield from _uses(scan.body, inside, {inner for outer, inner in pairs if outer in data})
        elif with_data or any(v in block.linear and v not in derived for v in inputs):
            if not rule_of(equation).entrywise:
                yield from ((leaf, equation) for leaf in own)
        else:
            derived.update(dict.fromkeys(equation.outvars, own))
