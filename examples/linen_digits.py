"""Flax Linen, as in Flax's MNIST example: a CNN, a TrainState, clu's writer. 2 CPU cores: 10 s.

python examples/linen_digits.py; the lines of the hook are marked with # NTK.
"""

import flax.linen as nn
import jax
import numpy as np
import optax
from clu import metric_writers
from flax.training.train_state import TrainState
from sklearn.datasets import load_digits

from ntk_train import NTKHook, linen_fn


class CNN(nn.Module):
    """A convolution and a classifier."""

    @nn.compact
    def __call__(self, x):
        """Images [N, 8, 8, 1] to logits [N, 10]."""
        x = nn.relu(nn.Conv(16, (3, 3), strides=2)(x))
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


@jax.jit
def train_step(state, images, labels):
    """One step of SGD."""

    def loss_fn(params):
        logits = state.apply_fn({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return state.apply_gradients(grads=jax.grad(loss_fn)(state.params))


def main(workdir="runs/linen_digits", num_steps=200, every_steps=20):
    """Trains; returns what the kernel can be computed from again."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    model = CNN()
    params = model.init(jax.random.key(0), images[:1])["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.sgd(0.1, 0.9))
    writer = metric_writers.create_default_writer(str(workdir))
    f, probe = linen_fn(model), images[:32]  # NTK
    hook = NTKHook(f, probe, labels=labels[:32], every_steps=every_steps, writer=writer)  # NTK
    rng = np.random.default_rng(0)
    for step in range(1, num_steps + 1):
        batch = rng.integers(len(images), size=64)
        state = train_step(state, images[batch], labels[batch])
        hook(step, params=state.params)  # NTK
    hook.close()  # NTK
    writer.close()
    return hook, f, state.params, probe


if __name__ == "__main__":
    main()
