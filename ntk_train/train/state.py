"""What changes from step to step, and what a checkpoint holds."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from ntk_train._types import PyTree


class TrainState(flax.struct.PyTreeNode):
    """The state of a run.

    Attributes:
      step: [] int32, the number of updates so far.
      params: the parameters.
      model_state: the model's other collections, {"batch_stats": ...} or {}; not differentiated.
      opt_state: of the optimizer.
      diverged: [] bool, whether an update would have had a NaN or infinite loss or parameter. The
        state is then the last finite one, and stays.
    """

    step: jax.Array
    params: PyTree
    model_state: dict[str, Any]
    opt_state: PyTree
    diverged: jax.Array


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    seed: int,
) -> TrainState:
    """The state before the first step.

    Args:
      model: called as `model.apply(variables, images, train=...)`.
      optimizer: of optax.
      image_shape: of one image, (height, width, channels).
      seed: of the parameters.
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    init = jax.jit(lambda key: model.init(key, images, train=False))
    model_state = dict(init(jax.random.key(seed)))
    params = model_state.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(params),
        diverged=jnp.zeros((), bool),
    )
