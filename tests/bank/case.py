"""What a case is: a function, its parameters and two batches of different sizes."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train import linen_fn

N, M = 4, 3


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A function, its parameters and two batches of different sizes.

    Attributes:
      name: what is special about it.
      make: from a dtype to (f, params, x1, x2).
      batched: whether examples are independent.
      forward: whether f has forward-mode derivatives.
      gaps: implementations that cannot do it, and the error that says so.
    """

    name: str
    make: Callable
    batched: bool = True
    forward: bool = True
    gaps: dict[str, type[Exception]] = dataclasses.field(default_factory=dict)


def case_in(bank):
    """A decorator `case(**fields)`, which adds a function to a list of cases.

    The function is from (dtype, normal) to (f, params, shape of one input), or to two batches in
    place of the shape; `normal(*shape)` draws numbers of that dtype.
    """

    def case(**fields):
        def add(make):
            bank.append(Case(make.__name__, functools.partial(_build, make), **fields))
            return make

        return add

    return case


@functools.cache
def _build(make, dtype):
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    f, params, x = make(dtype, normal)
    if isinstance(x, tuple):
        x = normal(N, *x), normal(M, *x)
    return f, params, *x


def linen(model, inputs, dtype, normal, train=None, **kwargs):
    """A Linen model with random parameters, biases too, and random running statistics.

    The inputs are the shape of one, or the two batches.
    """
    call = {} if train is None else {"train": train}
    example = jnp.ones((2, *inputs), dtype) if isinstance(inputs, tuple) else inputs[0]
    shapes = jax.eval_shape(functools.partial(model.init, **call), jax.random.key(0), example)
    draw = lambda leaf: normal(*leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]), dtype=dtype)
    params = jax.tree.map(draw, shapes.pop("params"))
    state = jax.tree.map(lambda leaf: 0.5 + abs(normal(*leaf.shape)), shapes)
    f = linen_fn(model, **call, **kwargs)
    return (lambda params, x: f(params, x, state)), params, inputs
