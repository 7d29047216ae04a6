"""The kernel of some examples with some others in two steps: what a side comes to, and a block.

What one side comes to is used in many blocks: on a mesh it goes round from device to device, and of
a kernel that is written tile by tile it is there for a row of tiles.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._types import ApplyFn, Coupling, KernelLayout, PyTree
from ntk_train.kernel.auto import REFERENCES, Resolved, resolve
from ntk_train.kernel.blocks import contracted, kernels_of
from ntk_train.kernel.machine import ROWS
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.plan import Plan
from ntk_train.kernel.problem import make_problem, mode_and_choices
from ntk_train.kernel.rows import rows_of

# How often the rows of one side are there at most: what is used, what is kept, what comes in.
_COPIES = 3


class Sides(NamedTuple):
    """A kernel whose arguments have been checked, while nothing has been moved or computed.

    Attributes:
      layout: of the kernel.
      shape: of the kernel.
      sizes: how many examples x1 and x2 have; of x1 alone where there is no x2.
      inputs: each side's inputs, and the chosen logit of each example or None.
      coupling: where examples interact although they are taken one by one; None if not.
    """

    layout: KernelLayout
    shape: tuple[int, ...]
    sizes: list[int]
    inputs: list[tuple[PyTree, jax.Array | None]]
    coupling: Coupling | None


def sides_of(
    f: ApplyFn,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None,
    options: KernelOptions,
    model_state: PyTree,
) -> Sides:
    """The sides of a kernel, from the arguments of `ntk_train.ntk`.

    Raises:
      KernelInputError, DtypeError: as `ntk_train.ntk`.
    """
    arrays, whole = arrays_of((x1, x2))
    found: list[Any] = []

    def trace(shapes: list[jax.Array]) -> tuple:
        # As tracers they are neither moved nor computed with, and errors of f are as elsewhere.
        first, other = whole(shapes)
        problem = make_problem(f, params, first, other, options, model_state=model_state)
        layout = problem.layout
        labels: dict[str, int] = {}
        second = problem.x1 if problem.x2 is None else problem.x2
        for side, x in ((layout.left, problem.x1), (layout.right, second)):
            examples = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), x)
            one = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), examples)
            of_one = jax.eval_shape(problem.f1, problem.theta, one).shape
            labels |= dict.fromkeys(side[1:], math.prod(of_one))
            labels[side[0]] = jax.tree.leaves(examples)[0].shape[0]
        of_kernel = tuple(labels[label] for label in layout.out)
        sizes = [labels[layout.left[0]], labels[layout.right[0]]]
        found.extend((layout, of_kernel, sizes, problem.coupling))
        return ()

    jax.eval_shape(trace, arrays)
    layout, shape, sizes, coupling = found
    _, *choices = mode_and_choices(options.outputs, x2)
    inputs = [
        (x, None if choice is None else jnp.broadcast_to(jnp.asarray(choice), (n,)))
        for x, choice, n in zip((x1, x2), choices, sizes, strict=True)
        if x is not None
    ]
    return Sides(layout, shape, sizes[: len(inputs)], inputs, coupling)


def arrays_of(tree: PyTree) -> tuple[list[Any], Callable[[list[Any]], PyTree]]:
    """The arrays of a tree, as arguments of a program, and the tree from others in their place."""
    leaves, structure = jax.tree.flatten(tree)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, (jax.Array, np.ndarray))]

    def whole(arrays: list[Any]) -> PyTree:
        own = list(leaves)
        for i, array in zip(places, arrays, strict=True):
            own[i] = array
        return jax.tree.unflatten(structure, own)

    return [leaves[i] for i in places], whole


def resolve_sides(
    f: ApplyFn,
    params: PyTree,
    inputs: Sequence[PyTree],
    options: KernelOptions,
    model_state: PyTree,
) -> tuple[Resolved, list[str]]:
    """As `auto.resolve`, of both sides of a block as `Sides.inputs` has them.

    They are two although they may be the same: of most blocks they are others.
    """
    (x1, choice1), (x2, choice2) = inputs
    if choice1 is not None:
        options = dataclasses.replace(options, outputs=(choice1, choice2))
    return resolve(f, params, x1, x2, options, model_state)


class Pair(NamedTuple):
    """The two steps.

    Attributes:
      side: from the number of a side, 0 for x1 and 1 for x2, and its inputs to what they come to:
        rows of the factored Jacobian, or the inputs themselves where these rows do not fit in
        memory, or are nothing that an implementation keeps.
      block: the kernel of each group from what both sides come to.
      is_one: whether what inputs come to is the same on either side.
    """

    side: Callable[[int, PyTree], PyTree]
    block: Callable[[PyTree, PyTree], list[jax.Array]]
    is_one: bool


def pair_of(resolved: Resolved) -> Pair:
    """The steps of a problem that has both x1 and x2."""
    problem, plan = resolved.problem, resolved.plan
    if resolved.implementation in REFERENCES:
        reference = REFERENCES[resolved.implementation]

        def of_inputs(x1: PyTree, x2: PyTree) -> list[jax.Array]:
            return reference(dataclasses.replace(problem, x1=x1, x2=x2), resolved.groups)

        return Pair(_as_it_is, of_inputs, is_one=True)
    assert plan is not None
    if not keeps_rows(plan):
        return Pair(_as_it_is, functools.partial(kernels_of, plan), is_one=True)
    is_one = plan.programs[0] is plan.programs[1]
    return Pair(functools.partial(rows_of, plan), functools.partial(contracted, plan), is_one)


def _as_it_is(_: int, x: PyTree) -> PyTree:
    return x


def keeps_rows(plan: Plan) -> bool:
    """Whether the rows of all layers are there at once, and fit."""
    if plan.tiles is not None or plan.inner is not None or plan.blocks.traced is not None:
        return False
    return _COPIES / 2 * sum(plan.work.kept) <= ROWS * plan.machine.memory
