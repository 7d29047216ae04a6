"""A kernel that is asked for outside of `jax.jit` is compiled as one program all the same.

Op by op, XLA would compile each of hundreds of operations on its own: on a GPU that is minutes for
a ResNet-50, where the whole program takes seconds.
"""

from collections.abc import Callable
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
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
        return function(*arguments)
    closed, shapes = jax.make_jaxpr(lambda: function(*arguments), return_shape=True)()
    program = jax.jit(lambda arrays: jax.core.eval_jaxpr(closed.jaxpr, arrays))
    return jax.tree.unflatten(jax.tree.structure(shapes), program(closed.consts))
