"""Equinox: the parameters are the model's arrays, the rest of the module stays in the function.

python examples/equinox_digits.py

The lines of the hook are marked with # NTK. 2 CPU cores: 10 s.
"""

import equinox as eqx
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

from ntk_train import NTKHook
from ntk_train.monitor import tensorboard_writer


def main(workdir="runs/equinox_digits", num_steps=200, every_steps=20):
    """Trains; returns what the kernel can be computed from again."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    model = eqx.nn.MLP(64, 10, width_size=64, depth=2, key=jax.random.key(0))
    optimizer = optax.adam(1e-3)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_value_and_grad
    def loss_fn(model, images, labels):
        logits = jax.vmap(model)(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @eqx.filter_jit
    def train_step(model, opt_state, images, labels):
        loss, grads = loss_fn(model, images, labels)
        updates, opt_state = optimizer.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, loss

    writer = tensorboard_writer(workdir)
    _, static = eqx.partition(model, eqx.is_inexact_array)  # NTK
    f, probe = lambda params, x: jax.vmap(eqx.combine(params, static))(x), images[:32]  # NTK
    hook = NTKHook(f, probe, labels=labels[:32], every_steps=every_steps, writer=writer)  # NTK
    rng = np.random.default_rng(0)
    for step in range(1, num_steps + 1):
        batch = rng.integers(len(images), size=64)
        model, opt_state, loss = train_step(model, opt_state, images[batch], labels[batch])
        writer.write_scalars(step, {"train_loss": loss})
        hook(step, params=eqx.filter(model, eqx.is_inexact_array))  # NTK
    hook.close()  # NTK
    writer.close()
    return hook, f, eqx.filter(model, eqx.is_inexact_array), probe


if __name__ == "__main__":
    main()
