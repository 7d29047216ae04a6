"""A kernel that is asked for outside of `jax.jit` is compiled as one program all the same.

Op by op, XLA would compile each of hundreds of operations on its own: on a GPU that is minutes for
a ResNet-50, where the whole program takes seconds.
"""

import contextlib
from collections.abc import Callable, Iterator
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
    with usual_promotion():
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
            with _mesh_of(arguments):
                return function(*arguments)
        with _mesh_of(arguments):
            closed, shapes = jax.make_jaxpr(lambda: function(*arguments), return_shape=True)()
        program = jax.jit(lambda arrays: jax.core.eval_jaxpr(closed.jaxpr, arrays))
        return jax.tree.unflatten(jax.tree.structure(shapes), program(closed.consts))


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
