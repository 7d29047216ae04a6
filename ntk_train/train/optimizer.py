"""The optimizer and the learning rate over the steps, from a config.

The schedules, at step t of T with W steps of warm-up and the peak rate eta:

    t < W:      eta t / W
    constant:   eta
    step:       eta c^k, with k of the given fractions of T behind
    cosine:     eta (1 + cos(pi (t - W) / (T - W))) / 2

the last from I. Loshchilov, F. Hutter, *SGDR*, ICLR 2017, equation 5.
"""

import math
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from ntk_train._registry import lookup
from ntk_train._types import PyTree


def make_schedule(config: ConfigDict, num_train_steps: int) -> optax.Schedule:
    """Makes the learning rate as a function of the number of updates made so far.

    Args:
      config: `config.optimizer`, with `schedule`, `learning_rate`, `warmup_steps` and, for "step",
        `step_fractions` and `step_factor`.
      num_train_steps: T.

    Raises:
      ValueError: a value is out of range, or there is no such schedule.
    """
    if not 0 < config.learning_rate < math.inf:
        msg = f"learning_rate={config.learning_rate}; expected a positive number, 1e-3 say."
        raise ValueError(msg)
    if not 0 < config.step_factor < math.inf:
        msg = f"step_factor={config.step_factor}; expected a positive number, 0.1 say."
        raise ValueError(msg)
    if not 0 <= config.warmup_steps < num_train_steps:
        msg = (
            f"warmup_steps={config.warmup_steps}; expected 0 or more, and fewer than "
            f"num_train_steps={num_train_steps}."
        )
        raise ValueError(msg)
    fractions = tuple(config.step_fractions)
    if list(fractions) != sorted(set(fractions)) or not all(0 < f < 1 for f in fractions):
        msg = f"step_fractions={fractions}; expected rising numbers between 0 and 1, (0.5, 0.75)."
        raise ValueError(msg)
    peak, steps = config.learning_rate, num_train_steps - config.warmup_steps
    schedules = {
        "constant": lambda: optax.constant_schedule(peak),
        "step": lambda: optax.piecewise_constant_schedule(
            peak,
            {
                round(fraction * num_train_steps) - config.warmup_steps: config.step_factor
                for fraction in fractions
            },
        ),
        "cosine": lambda: optax.cosine_decay_schedule(peak, steps),
    }
    schedule = lookup(schedules, config.schedule, "schedule")()
    if config.warmup_steps == 0:
        return schedule
    warmup = optax.linear_schedule(0.0, peak, config.warmup_steps)
    return optax.join_schedules([warmup, schedule], [config.warmup_steps])


def make_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Makes the optimizer.

    Weight decay is applied to parameters of two and more axes only, not to biases and scales. In
    "sgd" it is added to the gradient; in "adamw" it is decoupled (I. Loshchilov, F. Hutter,
    *Decoupled Weight Decay Regularization*, ICLR 2019, algorithm 2). With `clip_norm` the gradient
    is first scaled down to that norm where it is larger.

    Args:
      config: `config.optimizer`, with `name` ("adamw" or "sgd"), `weight_decay`, `clip_norm` and,
        for "sgd", `momentum` and `nesterov`.
      schedule: the learning rate.

    Raises:
      ValueError: there is no such optimizer, or a value is out of range.
    """

    def adamw() -> optax.GradientTransformation:
        return optax.adamw(schedule, weight_decay=config.weight_decay, mask=_decayed)

    def sgd() -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask=_decayed),
            optax.sgd(schedule, momentum=config.momentum, nesterov=config.nesterov),
        )

    for name, below in (("weight_decay", math.inf), ("momentum", 1)):
        if not 0 <= config[name] < below:
            msg = f"{name}={config[name]}; expected 0 or more, and below {below}."
            raise ValueError(msg)
    if not 0 <= config.clip_norm < math.inf:
        msg = f"clip_norm={config.clip_norm}; expected a positive number, or 0 for no clipping."
        raise ValueError(msg)
    optimizer = lookup({"adamw": adamw, "sgd": sgd}, config.name, "optimizer")()
    if config.clip_norm == 0:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def _decayed(params: PyTree) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
