"""A kernel that is asked for outside of `jax.jit` is compiled as one program all the same.

Op by op, XLA would compile each of hundreds of operations on its own: on a GPU that is minutes for
a ResNet-50, where the whole program takes seconds.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from ntk_train._types import PyTree


def as_one_program(function: Callable[..., Any], *arguments: PyTree) -> Any:
    """`function(*arguments)` as one program, compiled anew in each call: f may have changed.

    The function sees its arguments as they are. Arrays among them, and those that it closes over,
    are the program's arguments: as constants XLA would compute with them while it compiles.

    Args:
      function: to be compiled, unless one of its arguments is traced already.
      *arguments: any.
    """
    (value,) = one_program_for_each(lambda _: function(*arguments), arguments, [()])
    return value


def one_program_for_each(
    function: Callable[[Any], Any], arguments: PyTree, others: Sequence[PyTree]
) -> list[Any]:
    """`function(other)` for each of some pytrees of arrays, by one program as above.

    Args:
      function: to be compiled once, unless one of the arguments is traced already.
      arguments: what it closes over.
      others: of the same shapes and dtypes.
    """
    with usual_promotion(), _mesh_of(arguments):
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
            return [function(other) for other in others]
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(others[0])
        program = jax.jit(lambda *arrays: jax.core.eval_jaxpr(closed.jaxpr, *arrays))
        treedef = jax.tree.structure(shapes)
        return [
            jax.tree.unflatten(treedef, program(closed.consts, *jax.tree.leaves(other)))
            for other in others
        ]


@contextlib.contextmanager
def usual_promotion() -> Iterator[None]:
    """Promotion of dtypes and ranks as JAX has it by default.

    The kernel of parameters or outputs of several dtypes mixes them. A user's stricter flags raise
    where values are mixed and change none, so that f is the same function under either.
    """
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _mesh_of(arguments: PyTree) -> contextlib.AbstractContextManager:
    """The mesh in Explicit mode of an argument, for arrays that are made beside them."""
    for leaf in jax.tree.leaves(arguments):
        if isinstance(leaf, jax.Array):
            mesh = jax.typeof(leaf).sharding.mesh
            if jax.sharding.AxisType.Explicit in mesh.axis_types:
                return jax.sharding.use_abstract_mesh(mesh)
    return contextlib.nullcontext()
