"""The kernel on several devices: examples are divided over an axis of a mesh.

Each device takes the derivatives of its own examples, and has the rows of the kernel that belong to
them. What it needs of the others goes round a ring: in each step every device contracts what it has
with what its neighbour had in the step before. What goes round are the rows of the factored
Jacobian, made once, or the inputs where those rows do not fit in memory, whose derivatives are then
taken anew by each device. Of the kernel of x1 with itself half of the ring is enough: what is
across the diagonal is sent to where it belongs.

All of it runs inside of `jax.shard_map`: XLA's own gradients of convolutions over sharded examples
are wrong (see `problem.on_one_device`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ntk_train._types import ApplyFn, KernelLayout, PyTree
from ntk_train.errors import KernelInputError
from ntk_train.kernel.assemble import mirrored_axes
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.pair import arrays_of, pair_of, resolve_sides, sides_of
from ntk_train.kernel.precision import precision_of_products
from ntk_train.kernel.problem import (
    on_one_device,
    replicated,
    warn_of_coupling,
)
from ntk_train.kernel.whole import as_one_program

_NOTE = (
    "With mesh= each device runs f on its own examples, within jax.shard_map: f may have no "
    "sharding constraint and no mesh of its own, and no array that it closes over may be committed "
    "to devices. Pass arrays as params or model_state=, and an f without constraints."
)


class Division(NamedTuple):
    """Over which devices the examples are divided.

    Attributes:
      mesh: of devices.
      axis: its axis.
    """

    mesh: Mesh
    axis: str

    @property
    def whole(self) -> NamedSharding:
        """Of what each device has all of."""
        return NamedSharding(self.mesh, PartitionSpec())

    def gathered(self, tree: PyTree) -> PyTree:
        """Arrays on the mesh whole on each device, also of several processes, and in a program."""
        if AxisType.Explicit in self.mesh.axis_types:
            return jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, self.whole), tree)
        return jax.jit(lambda tree: lax.with_sharding_constraint(tree, self.whole))(tree)


def division_of(mesh: Any, axis: Any, options: KernelOptions) -> Division | None:
    """What `mesh=` and `axis=` come to; None without a mesh.

    Args:
      mesh: a mesh, or None.
      axis: of its axes, None for the first.
      options: of the kernel.

    Raises:
      KernelInputError: there is no such axis, or examples are not independent.
    """
    if mesh is None:
        if axis is not None:
            msg = f"axis={axis!r} is an axis of a mesh, but there is no mesh=."
            raise KernelInputError(msg)
        return None
    return Division(mesh, _checked_axis(mesh, axis, options))


def compute_on_mesh(
    f: ApplyFn,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None,
    options: KernelOptions,
    model_state: PyTree,
    division: Division,
    *,
    warns: bool = True,
) -> Any:
    """What `ntk` returns, its rows of examples divided over an axis of a mesh.

    Args:
      f: as in `ntk_train.ntk`.
      params: its parameters, copied to each device.
      x1: the inputs, wherever they are.
      x2: the other inputs, or None.
      options: of the kernel; a memory budget is that of each device.
      model_state: as in `ntk_train.ntk`.
      division: over the devices.
      warns: of examples that interact.

    Raises:
      KernelInputError: as `ntk_train.ntk`; or there are no examples.
    """
    mesh, axis = division
    with precision_of_products(options.precision):
        own = sides_of(f, params, x1, x2, options, model_state)
        if warns:
            warn_of_coupling(own.coupling)
        if 0 in own.sizes:
            msg = f"x1 and x2 have {own.sizes} examples: none to divide. Leave out mesh=."
            raise KernelInputError(msg)
        divided = [_divided(side, mesh, axis) for side in own.inputs]
        whole = _placed((params, model_state), division.whole)
        run = functools.partial(_kernels, f, options, mesh, axis)
        try:
            kernels = as_one_program(run, whole, divided)
        except (NotImplementedError, TypeError, ValueError) as error:
            error.add_note(_NOTE)
            raise
    return jax.tree.map(lambda kernel: _without_copies(kernel, own.shape), kernels)


def _without_copies(kernel: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The kernel of what examples there are."""
    if kernel.shape == tuple(shape):
        return kernel
    return replicated(kernel)[tuple(map(slice, shape))]


def _checked_axis(mesh: Any, axis: Any, options: KernelOptions) -> str:
    if not isinstance(mesh, Mesh) or mesh.devices.ndim == 0:
        msg = f"mesh is {mesh!r}; expected a jax.sharding.Mesh of devices, as of jax.make_mesh."
        raise KernelInputError(msg)
    axis = mesh.axis_names[0] if axis is None else axis
    if not isinstance(axis, str) or axis not in mesh.axis_names:
        msg = f"axis={axis!r}; expected the name of one axis of the mesh: {list(mesh.axis_names)}."
        raise KernelInputError(msg)
    if not options.batched:
        msg = (
            "mesh= divides examples over devices, and batched=False says that they interact. "
            "Evaluate f in eval mode with batched=True, or leave out mesh=."
        )
        raise KernelInputError(msg)
    return axis


def _divided(side: PyTree, mesh: Mesh, axis: str) -> PyTree:
    """One side's examples on the devices, as many on each: the last one comes more than once."""
    number = mesh.shape[axis]

    def divided(leaf: Any) -> Any:
        missing = -len(leaf) % number
        if not missing:
            return leaf
        if isinstance(leaf, jax.core.Tracer):
            leaf = replicated(leaf)
        elif len(leaf.sharding.device_set) > 1:
            leaf = on_one_device("x", leaf)
        return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)])

    side = jax.tree.map(divided, jax.tree.map(_as_array, side))
    return _placed(side, NamedSharding(mesh, PartitionSpec(axis)))


def _as_array(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)


def _placed(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """The arrays of a tree on the devices of a mesh."""
    is_explicit = AxisType.Explicit in sharding.mesh.axis_types

    def placed(leaf: Any) -> Any:
        if isinstance(leaf, jax.core.Tracer):  # of an axis in Auto mode shard_map places it
            return jax.sharding.reshard(leaf, sharding) if is_explicit else leaf
        is_array = isinstance(leaf, (jax.Array, np.ndarray, np.generic))
        return jax.device_put(leaf, sharding) if is_array else leaf

    return jax.tree.map(placed, tree)


def _kernels(
    f: ApplyFn,
    options: KernelOptions,
    mesh: Mesh,
    axis: str,
    whole: PyTree,
    divided: Sequence[PyTree],
) -> Any:
    """The kernel, or the dict of its parts, from arguments that are on the devices."""
    arrays, of_arrays = arrays_of(whole)

    def of_device(arguments: list[jax.Array], divided: list[PyTree]) -> Any:
        params, model_state = of_arrays(arguments)
        return _of_device(f, params, divided, options, model_state, axis)

    run: Any = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(axis)),
        out_specs=PartitionSpec(axis),
        # With it, derivatives in what all devices have are summed over them.
        check_vma=False,
    )
    return run(arrays, list(divided))


def _of_device(
    f: ApplyFn,
    params: PyTree,
    sides: Sequence[PyTree],
    options: KernelOptions,
    model_state: PyTree,
    axis: str,
) -> Any:
    """The rows of the kernel of a device's own examples."""
    resolved, names = resolve_sides(f, params, (sides[0], sides[-1]), options, model_state)
    layout, pair, is_one = resolved.problem.layout, pair_of(resolved), len(sides) == 1
    own = pair.side(0, resolved.problem.x1)
    other = own if is_one and pair.is_one else pair.side(1, resolved.problem.x2)
    mirrored = mirrored_axes(layout) if is_one else None
    kernels = _ring(layout, own, other, pair.block, axis, mirrored)
    return dict(zip(names, kernels, strict=True)) if options.per_layer else kernels[0]


def _ring(
    layout: KernelLayout,
    own: PyTree,
    other: PyTree,
    block: Callable[[PyTree, PyTree], list[jax.Array]],
    axis: str,
    mirrored: Sequence[int] | None,
) -> list[jax.Array]:
    """The kernels of a device's examples with all, by what goes round.

    Args:
      layout: of the kernels.
      own: what stays.
      other: what goes round.
      block: a block of each kernel from both.
      axis: of the mesh.
      mirrored: axes that make a block the one across the diagonal; None if there is none.
    """
    number = lax.axis_size(axis)
    steps = number if mirrored is None else number // 2 + 1

    def step(other: PyTree, _: None) -> tuple[PyTree, list[jax.Array]]:
        # Sent before it is used, so that the next step need not wait for it.
        following = jax.tree.map(lambda leaf: _shifted(leaf, axis, -1), other)
        return following, block(own, other)

    _, found = lax.scan(step, other, None, length=steps)  # [step, *labels]: with that many ahead
    m = layout.out.index(layout.right[0])

    def whole(blocks: jax.Array) -> jax.Array:
        ahead = list(blocks)
        if mirrored is not None:
            missing = range(number - steps, 0, -1)
            ahead += [_shifted(ahead[s].transpose(mirrored), axis, s) for s in missing]
        # From how far ahead a device is to which one it is.
        order = (jnp.arange(number) - lax.axis_index(axis)) % number
        in_order = jnp.moveaxis(jnp.stack(ahead)[order], 0, m)
        shape = ahead[0].shape
        return in_order.reshape(*shape[:m], number * shape[m], *shape[m + 1 :])

    return [whole(blocks) for blocks in found]


def _shifted(leaf: jax.Array, axis: str, by: int) -> jax.Array:
    """What each device has, to the one that comes so many after it."""
    number = lax.axis_size(axis)
    return lax.ppermute(leaf, axis, [(i, (i + by) % number) for i in range(number)])
