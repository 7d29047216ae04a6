"""A kernel that is asked for outside of `jax.jit` is compiled as one program all the same.

Op by op, XLA would compile each of hundreds of operations on its own: on a GPU that is minutes for
a ResNet-50, where the whole program takes seconds.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._types import PyTree


def as_one_program(function: Callable[..., Any], params: PyTree, *inputs: PyTree) -> Any:
    """`function(params, *inputs)` as one program, compiled anew in each call: f may have changed.

    Args:
      function: to be compiled, unless one of its arguments is traced already.
      params: of which floating-point arrays are the program's arguments; what else there is, as
        numbers and functions, stays as it is.
      *inputs: of which all arrays are arguments of the program.
    """
    leaves, treedef = jax.tree.flatten((params, *inputs))
    num_params = len(jax.tree.leaves(params))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return function(params, *inputs)
    given = {
        i: leaf
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, (jax.Array, np.ndarray))
        and (i >= num_params or jnp.issubdtype(leaf.dtype, jnp.floating))
    }

    def program(given: dict[int, jax.Array]) -> Any:
        return function(
            *jax.tree.unflatten(treedef, [given.get(i, x) for i, x in enumerate(leaves)])
        )

    return jax.jit(program)(given)
