"""The only file that depends on the version of JAX or on `jax.extend`."""

from collections.abc import Callable
from typing import Any

import jax


def lowered_flops(fn: Callable[..., Any], *args: Any) -> float | None:
    """Floating-point operations of `fn(*args)`, counted by XLA before it optimises.

    Nothing is compiled or run: tracing and lowering alone, and so as cheap as they are. Tracers are
    welcome, among the arguments and in what `fn` closes over: only their shapes count.

    Returns:
      The number of operations, or None where the backend does not report it.
    """
    closed = jax.make_jaxpr(fn)(*args)  # what fn closes over becomes closed.consts

    def program(consts: list[Any], leaves: list[Any]) -> list[Any]:
        return jax.core.eval_jaxpr(closed.jaxpr, consts, *leaves)

    shapes = jax.eval_shape(lambda *xs: xs, closed.consts, jax.tree.leaves(args))
    analysis = jax.jit(program).lower(*shapes).cost_analysis()
    return None if analysis is None else analysis.get("flops")
