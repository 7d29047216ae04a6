"""A variable that separates the parameters before it from the outputs: the bottleneck of a program.

If every path from some parameters to the outputs leads through one variable h, the program is two:
from these parameters to h, and from h and all other parameters to the outputs. The input of a
classifier's last layer is such a variable, and often has fewer entries than there are classes.

In the words of compilers, h post-dominates each variable that it depends on. The immediate
post-dominators make a tree, whose root is the output and in which the variables that v has to pass
are the ancestors of v. One pass from the outputs to the parameters grows it: the parent of a
variable is where its uses meet. A second pass, forwards, finds where everything that v depends on
meets; v separates it from the outputs if that is v itself.
"""

import dataclasses
import functools
import itertools
from collections.abc import Container, Iterable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp

from ntk_train._jax import Equation, Literal, Var, shape_of
from ntk_train.program.linear import LinearProgram

# An earlier cut has fewer parameters before it, so that it pays only at a much narrower variable:
# at most this part of the numbers of the next cut on the way to the outputs. Of any number of
# outputs that leaves few cuts to plan.
_FEWER = 3 / 4
_MOST = 16  # cuts, where many ways to the outputs have one each


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
    """Cuts at variables with fewer entries than the outputs, the last one of each size first.

    Of those on one way to the outputs each has fewer entries than the ones after it.
    """
    return itertools.islice(
        (_halves(program, position) for position in _candidates(program)), _MOST
    )


def cut_at(program: LinearProgram, position: tuple[int, int]) -> Halves | None:
    """The program cut at an output of an equation; None if that cannot be done.

    Theta = J_h Theta_h J_h^T + (the part of the leaves after h) holds if h is a real variable, if
    some leaves reach the outputs through h and through h alone, and if no leaf is on both sides:
    the terms between the two uses of such a leaf would be lost. Each of these conditions has a case
    in tests/bank/preconditions.py; `separating` finds the variables that meet them.
    """
    i, j = position
    if i >= len(program.equations) or j >= len(program.equations[i].outvars):
        return None
    h = program.equations[i].outvars[j]
    return _halves(program, position) if h in separating(program) else None


def separating(program: LinearProgram) -> set[Var]:
    """The real variables that separate all that they depend on from the outputs."""
    return _separating(program, *_post_dominators(program))


def _candidates(program: LinearProgram) -> Iterator[tuple[int, int]]:
    """Where a cut may save something: positions of separating variables, the last one first."""
    outputs, sizes = shape_of(program.out).size, set[int]()
    tree, node = _post_dominators(program)
    found = _separating(program, tree, node)
    fewest = {0: float(outputs)}  # of the cuts that come after a node of the tree
    candidates = set[Var]()
    for v, number in node.items():  # from the outputs to the parameters
        size, before = shape_of(v).size, fewest[tree.parent[number]]
        fewest[number] = before
        if v in found and size < outputs and size <= before:
            fewest[number] = _FEWER * size
            candidates.add(v)
    for i in reversed(range(len(program.equations))):
        for j, v in enumerate(program.equations[i].outvars):
            if v in candidates and shape_of(v).size not in sizes:
                sizes.add(shape_of(v).size)
                yield i, j


class _Tree:
    """A tree that grows by leaves, and finds where two nodes meet in logarithmic time.

    Each node knows its parent and one ancestor further up, at distances as in a skew-binary number.
    (E. W. Myers, *An Applicative Random-Access Stack*, Information Processing Letters 17, 1983.)
    """

    def __init__(self) -> None:
        self.parent, self._jump, self._depth = [0], [0], [0]

    def add(self, parent: int) -> int:
        """A new node."""
        jump, depth = self._jump, self._depth
        far = jump[parent]
        equal = depth[parent] - depth[far] == depth[far] - depth[jump[far]]
        self.parent.append(parent)
        jump.append(jump[far] if equal else parent)
        depth.append(depth[parent] + 1)
        return len(depth) - 1

    def meet(self, nodes: Iterable[int]) -> int:
        """The lowest node above all of these, or one of them."""
        return functools.reduce(self._meet, nodes)

    def _meet(self, a: int, b: int) -> int:
        parent, jump, depth = self.parent, self._jump, self._depth
        if depth[a] < depth[b]:
            a, b = b, a
        while depth[a] > depth[b]:
            a = jump[a] if depth[jump[a]] >= depth[b] else parent[a]
        while a != b:
            a, b = (jump[a], jump[b]) if jump[a] != jump[b] else (parent[a], parent[b])
        return a


def _post_dominators(program: LinearProgram) -> tuple[_Tree, dict[Var, int]]:
    """The tree of what a tangent has to pass, and the nodes of the linear variables, root first.

    Variables that do not reach the output have no node.
    """
    tree, node, uses = _Tree(), dict[Var, int](), dict[Var, int]()
    if isinstance(program.out, Literal):
        return tree, node
    node[program.out] = 0
    for equation in reversed(program.equations):
        for v in equation.outvars:
            if v in uses and v not in node:
                node[v] = tree.add(uses[v])
        made = [node[v] for v in equation.outvars if v in node]
        if not made:
            continue
        meeting = tree.meet(made)
        for v in _linear_inputs(program, equation):
            uses[v] = tree.meet([uses[v], meeting]) if v in uses else meeting
    for v in program.tangents:
        if v in uses and v not in node:
            node[v] = tree.add(uses[v])
    return tree, node


def _separating(program: LinearProgram, tree: _Tree, node: dict[Var, int]) -> set[Var]:
    found = set[Var]()
    meeting = {v: node[v] for v in program.tangents if v in node}
    for equation in program.equations:
        inputs = [meeting[v] for v in _linear_inputs(program, equation) if v in meeting]
        for v in equation.outvars if inputs else ():
            if v in node:
                meeting[v] = tree.meet([node[v], *inputs])
                # A complex h has two real rows, of its real and its imaginary part; df/dh is one.
                if meeting[v] == node[v] and jnp.issubdtype(shape_of(v).dtype, jnp.floating):
                    found.add(v)
    return found


def _linear_inputs(program: LinearProgram, equation: Equation) -> list[Var]:
    return [v for v in equation.invars if not isinstance(v, Literal) and v in program.linear]


def _halves(program: LinearProgram, position: tuple[int, int]) -> Halves:
    """The program cut at a variable that separates it."""
    i, j = position
    h = program.equations[i].outvars[j]
    before = _ancestors(program, h, ())
    after = _ancestors(program, program.out, {h})
    leaves = frozenset(leaf for leaf, v in enumerate(program.tangents) if v in before)

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
            found.update(_linear_inputs(program, equation))
    return found
