"""From equation to equation of a program on a batch: on which examples its values depend."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ntk_train._jax import (
    Equation,
    Literal,
    Var,
    body_of_call,
    cond_p,
    linear_solve_inputs,
    linear_solve_p,
    scan_body,
    scan_p,
    shape_of,
    source_line,
    while_p,
)
from ntk_train._types import Coupling
from ntk_train.program.coupling.dependence import (
    MAX_EXAMPLES,
    NOTHING,
    UNKNOWN,
    Dependence,
    all_of,
    entry,
    example_of,
    in_order,
    is_mixed,
    joined,
    of_sets,
    origin_of,
    union,
    unknown,
    with_axis,
)
from ntk_train.program.coupling.entries import either
from ntk_train.program.coupling.indices import constant, evaluated, is_index, literal
from ntk_train.program.coupling.registry import rule_of

EXAMPLES = 3
"""How many to trace f with: of two, a shift by two places would leave each where it is."""

_CONTROL = {cond_p, scan_p, while_p}
_MOST_ITERATIONS = 64  # of a scan over examples


def find_coupling(
    closed: Any, x_axes: Sequence[int | None], out_axes: Sequence[int | None]
) -> Coupling | None:
    """Says where examples interact, if an output certainly depends on more than its own example.

    Args:
      closed: the closed jaxpr of a function whose last arguments are the leaves of a batch of
        `EXAMPLES` examples, or of 2.
      x_axes: of each of these leaves the axis of examples, None if it has none.
      out_axes: of each output the axis where the examples should be. Of an output without such an
        axis, or with another number of entries along it, nothing is said.
    """
    n = _number_of_examples(closed, x_axes)
    own = np.left_shift(1, np.arange(n)).astype(np.uint8)
    outputs = zip(dependences_of(closed, x_axes), closed.out_avals, out_axes, strict=True)
    for value, aval, axis in outputs:
        if axis is None or aval.shape[axis] != n:
            continue
        others = any(set(table) - {0, UNKNOWN} for a, table in value.axes.items() if a != axis)
        if others or (value.along(axis, n) & ~own & np.uint8(UNKNOWN - 1)).any():
            return value.origin or Coupling("", "")
    return None


def dependences_of(closed: Any, x_axes: Sequence[int | None]) -> list[Dependence]:
    """On which examples each output depends; the arguments are those of `find_coupling`."""
    n = _number_of_examples(closed, x_axes)
    invars = closed.jaxpr.invars
    axes = [None] * (len(invars) - len(x_axes)) + list(x_axes)
    inputs = [
        NOTHING if axis is None or _is_empty(v) else example_of(n, axis)
        for v, axis in zip(invars, axes, strict=True)
    ]
    walk = _Walk(n)
    return [
        value for value, _ in walk(closed.jaxpr, closed.consts, [(value, None) for value in inputs])
    ]


def _number_of_examples(closed: Any, x_axes: Sequence[int | None]) -> int:
    of_x = closed.jaxpr.invars[len(closed.jaxpr.invars) - len(x_axes) :]
    sizes = {
        shape_of(v).shape[axis] for v, axis in zip(of_x, x_axes, strict=True) if axis is not None
    }
    (n,) = sizes
    assert n <= MAX_EXAMPLES, n
    return n


_Known = tuple[Dependence, np.ndarray | None]
"""The dependence of a variable, and its value as far as it is a known index."""


class _Walk:
    """A walk over a jaxpr for a batch of n examples."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __call__(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[_Known]) -> list[_Known]:
        """What is known of the outputs, from what is known of the inputs."""
        found: dict[Var, _Known] = dict(zip(jaxpr.invars, inputs, strict=True))
        fixed = dict(zip(jaxpr.constvars, consts, strict=True))

        def known(v: Any) -> _Known:
            if isinstance(v, Literal):
                return NOTHING, literal(v)
            if v in fixed:
                found[v] = NOTHING, constant(v, fixed.pop(v))
            return found[v]

        for equation in jaxpr.eqns:
            values = [known(v) for v in equation.invars]
            found.update(zip(equation.outvars, self._outputs(equation, values), strict=True))
        return [known(v) for v in jaxpr.outvars]

    def _outputs(self, equation: Equation, inputs: Sequence[_Known]) -> Sequence[_Known]:
        dependences = [value for value, _ in inputs]
        depends = any(dependences)
        is_empty = all(map(_is_empty, equation.outvars))
        if is_empty or (not depends and not any(map(is_index, equation.outvars))):
            return [(NOTHING, None)] * len(equation.outvars)
        called = body_of_call(equation)
        if called is not None:
            if equation.primitive is linear_solve_p:
                inputs = linear_solve_inputs(equation, inputs)
            return [
                (_with_line(value, equation), number) for value, number in self(*called, inputs)
            ]
        numbers = [evaluated(equation, [number for _, number in inputs])]
        numbers += [None] * (len(equation.outvars) - 1)
        if not depends:
            return [(NOTHING, number) for number in numbers[: len(equation.outvars)]]
        found = self._dependences(equation, inputs)
        marked = [self._marked(value, dependences, equation) for value in found]
        return list(zip(marked, numbers[: len(found)], strict=True))

    def _marked(
        self, value: Dependence, inputs: Sequence[Dependence], equation: Equation
    ) -> Dependence:
        """An output of an equation, with its origin; that of a loop or branch may be inside."""
        if in_order(value, self._n):
            return Dependence(value.whole, value.axes)
        inside = value.origin if equation.primitive in _CONTROL else None
        origin = inside or origin_of(inputs)
        mixed_here = is_mixed(value) and not any(map(is_mixed, inputs))
        if origin is None or (mixed_here and not inside):
            origin = Coupling(equation.primitive.name, source_line(equation))
        return _with_line(Dependence(value.whole, value.axes, origin), equation)

    def _dependences(self, equation: Equation, inputs: Sequence[_Known]) -> list[Dependence]:
        dependences = [value for value, _ in inputs]
        if equation.primitive is cond_p:
            return self._cond(equation, inputs)
        if equation.primitive is scan_p:
            return self._scan(equation, dependences)
        if equation.primitive is while_p:
            return self._while(equation, dependences)
        rule = rule_of(equation)
        if rule is None:
            return [unknown(dependences)] * len(equation.outvars)
        found = rule(equation, dependences, [number for _, number in inputs])
        if isinstance(found, Dependence):
            found = [found] * len(equation.outvars)
        return list(found)

    def _body(
        self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Dependence]
    ) -> list[Dependence]:
        """Of one iteration, of whose inputs no index is known."""
        return [value for value, _ in self(jaxpr, consts, [(value, None) for value in inputs])]

    def _cond(self, equation: Equation, inputs: Sequence[_Known]) -> list[Dependence]:
        (switch, number), *arguments = inputs
        branches = equation.params["branches"]
        if number is not None and not np.isnan(number):
            branches = [branches[min(max(int(number), 0), len(branches) - 1)]]
        outputs = [
            [value for value, _ in self(branch.jaxpr, branch.consts, arguments)]
            for branch in branches
        ]
        join = union if switch else either
        return [union([switch, join(cases)]) for cases in zip(*outputs, strict=True)]

    def _scan(self, equation: Equation, inputs: list[Dependence]) -> list[Dependence]:
        body, consts, num_consts, num_carry = scan_body(equation)
        fixed, rest = inputs[:num_consts], inputs[num_consts:]
        carry, slices = rest[:num_carry], rest[num_carry:]
        length = equation.params["length"]
        if any(0 in value.axes for value in slices) and length <= _MOST_ITERATIONS:
            order = range(length)[:: -1 if equation.params["reverse"] else 1]
            found: dict[int, list[Dependence]] = {}
            for i in order:
                now = [entry(value, i) for value in slices]
                outputs = self._body(body, consts, [*fixed, *carry, *now])
                carry, found[i] = outputs[:num_carry], outputs[num_carry:]
            rows = zip(*(found[i] for i in range(length)), strict=True)
            stacked = [joined([with_axis(v, 0) for v in row], [1] * length, 0) for row in rows]
            return [*carry, *stacked]
        one = [
            of_sets(v.whole | all_of(v.axes.get(0, b"\0")), _next_axes(v.axes, -1)) for v in slices
        ]
        while True:
            outputs = self._body(body, consts, [*fixed, *carry, *one])
            after = [union(pair) for pair in zip(carry, outputs[:num_carry], strict=True)]
            if after == carry:
                return [*carry, *(with_axis(value, 0) for value in outputs[num_carry:])]
            carry = after

    def _while(self, equation: Equation, inputs: list[Dependence]) -> list[Dependence]:
        params = equation.params
        of_test, of_body = params["cond_nconsts"], params["body_nconsts"]
        test_consts, rest = inputs[:of_test], inputs[of_test:]
        body_consts, carry = rest[:of_body], rest[of_body:]
        test, body = params["cond_jaxpr"], params["body_jaxpr"]
        batched = bool(shape_of(test.jaxpr.outvars[0]).shape)
        while True:
            outputs = self._body(body.jaxpr, body.consts, [*body_consts, *carry])
            (goes_on,) = self._body(test.jaxpr, test.consts, [*test_consts, *carry])
            if not batched and goes_on:  # how often it runs is a whole number: it may not matter
                goes_on = Dependence(UNKNOWN)
            after = [union([*pair, goes_on]) for pair in zip(carry, outputs, strict=True)]
            if after == carry:
                return carry
            carry = after


def _is_empty(v: Any) -> bool:
    """Whether a variable has no entries, which depend on nothing."""
    return 0 in getattr(v.aval, "shape", ())


def _with_line(value: Dependence, call: Equation) -> Dependence:
    """With the line of a call, where what is called has none of the user's."""
    if value.origin is None or value.origin.line:
        return value
    origin = Coupling(value.origin.primitive, source_line(call))
    return Dependence(value.whole, value.axes, origin)


def _next_axes(axes: Any, step: int) -> dict[int, bytes]:
    return {axis + step: table for axis, table in axes.items() if axis + step >= 0}
