"""One update and one evaluation, compiled.

    loss = mean_n sum_o -q_n[o] log softmax(f(x_n))[o],    q_n = (1 - s) onehot(y_n) + s / O

with label smoothing s in training (C. Szegedy et al., *Rethinking the Inception Architecture for
Computer Vision*, CVPR 2016, section 7), without it in evaluation.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ntk_train._types import PyTree
from ntk_train.train.state import TrainState

Batch: TypeAlias = dict[str, Any]
Metrics: TypeAlias = dict[str, jax.Array]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    label_smoothing: float = 0.0,
    sharding: jax.sharding.Sharding | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Makes the compiled update `train_step(state, batch) -> state, metrics`.

    It donates the state: the caller's old one is deleted. The batch has "image" and integer
    "label". The metrics are [] arrays: "loss" and "accuracy" (float32, before the update) and
    "diverged". An update that is not finite is not made, nor any after it, so that the state stays
    the last one that is of use, however late the caller looks.

    Args:
      model: called with `train=True`; collections other than "params" are updated.
      optimizer: of optax.
      seed: of the model's "dropout" stream, which depends on the seed and the step alone.
      label_smoothing: the part of a label that is spread over all outputs, from 0 to below 1.
      sharding: of the state and the metrics that it returns; None to follow the arguments.
    """

    def loss_fn(params: PyTree, state: TrainState, batch: Batch) -> tuple[jax.Array, Any]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        logits, model_state = model.apply(
            {"params": params, **state.model_state},
            batch["image"],
            train=True,
            mutable=list(state.model_state),
            rngs={"dropout": key},
        )
        loss, correct = _loss_and_correct(logits, batch["label"], label_smoothing)  # [N], [N]
        return loss.mean(), (correct.mean(), dict(model_state))

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (accuracy, model_state)), gradient = gradient_fn(state.params, state, batch)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        updated = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state=model_state,
            opt_state=opt_state,
            diverged=state.diverged,
        )
        finite = jnp.isfinite(loss) & _all_finite(updated.params)
        diverged = state.diverged | ~finite
        state = jax.tree.map(lambda old, new: jnp.where(diverged, old, new), state, updated)
        metrics = {"loss": loss, "accuracy": accuracy, "diverged": diverged}
        return state.replace(diverged=diverged), metrics

    return jax.jit(train_step, donate_argnums=0, out_shardings=sharding)


def make_eval_step(model: nn.Module) -> Callable[[PyTree, dict[str, Any], Batch], Metrics]:
    """Makes the compiled `eval_step(params, model_state, batch) -> sums`.

    The sums over the batch, weighted by its "weight" [N], are "loss", "accuracy" and "weight".
    """

    def eval_step(params: PyTree, model_state: dict[str, Any], batch: Batch) -> Metrics:
        logits = model.apply({"params": params, **model_state}, batch["image"], train=False)
        loss, correct = _loss_and_correct(logits, batch["label"])
        weight = batch["weight"]
        return {
            "loss": jnp.sum(loss * weight),
            "accuracy": jnp.sum(correct * weight),
            "weight": jnp.sum(weight),
        }

    return jax.jit(eval_step)


def evaluate(
    eval_step: Callable[[PyTree, dict[str, Any], Batch], Metrics],
    state: TrainState,
    batches: Iterable[Batch],
) -> dict[str, float]:
    """The mean "loss" and "accuracy" over all examples of all batches, each counted once."""
    sums = [eval_step(state.params, state.model_state, batch) for batch in batches]
    total = {name: sum(float(s[name]) for s in sums) for name in sums[0]}
    return {name: total[name] / total["weight"] for name in ("loss", "accuracy")}


def _loss_and_correct(
    logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy [N] and whether the largest logit is right [N], both float32."""
    logits = logits.astype(jnp.float32)  # [N, O]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if label_smoothing > 0:
        uniform = -jax.nn.log_softmax(logits).mean(-1)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    return loss, (logits.argmax(-1) == labels).astype(jnp.float32)


def _all_finite(tree: PyTree) -> jax.Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()
