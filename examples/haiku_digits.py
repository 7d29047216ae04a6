"""Haiku: `apply` of a transformed function is what the hook takes.

python examples/haiku_digits.py

The lines of the hook are marked with # NTK. 2 CPU cores: 10 s.
"""

import haiku as hk
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

from ntk_train import NTKHook
from ntk_train.monitor import tensorboard_writer


def main(workdir="runs/haiku_digits", num_steps=200, every_steps=20):
    """Trains; returns what the kernel can be computed from again."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    network = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([64, 64, 10])(x)))
    params = network.init(jax.random.key(0), images[:1])
    optimizer = optax.adam(1e-3)
    opt_state = optimizer.init(params)

    def loss_fn(params, images, labels):
        logits = network.apply(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def train_step(params, opt_state, images, labels):
        loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    writer, probe = tensorboard_writer(workdir), images[:32]
    hook = NTKHook(network.apply, probe, every_steps=every_steps, writer=writer)  # NTK
    rng = np.random.default_rng(0)
    for step in range(1, num_steps + 1):
        batch = rng.integers(len(images), size=64)
        params, opt_state, loss = train_step(params, opt_state, images[batch], labels[batch])
        writer.write_scalars(step, {"train_loss": loss})
        hook(step, params=params)  # NTK
    hook.close()  # NTK
    writer.close()
    return hook, network.apply, params, probe


if __name__ == "__main__":
    main()
