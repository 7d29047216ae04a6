"""Flax NNX: a model with BatchNorm, and nnx.Optimizer. 2 CPU cores: 10 s.

python examples/nnx_digits.py; the lines of the hook are marked with # NTK.
"""

import jax
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from ntk_train import NTKHook, nnx_fn
from ntk_train.monitor import tensorboard_writer


class MLP(nnx.Module):
    """A hidden layer with BatchNorm."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        """Images [N, 64] to logits [N, 10]."""
        return self.out(nnx.relu(self.norm(self.hidden(x))))


@nnx.jit
def train_step(model, optimizer, images, labels):
    """One step, which changes model and optimizer."""

    def loss_fn(model):
        logits = model(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    optimizer.update(model, nnx.grad(loss_fn)(model))


def main(workdir="runs/nnx_digits", num_steps=200, every_steps=20):
    """Trains; returns what the kernel can be computed from again."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    model = MLP(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    writer = tensorboard_writer(workdir)
    f, probe = nnx_fn(model), images[:32]  # NTK
    hook = NTKHook(f, probe, labels=labels[:32], every_steps=every_steps, writer=writer)  # NTK
    for step in range(1, num_steps + 1):
        batch = jax.random.randint(jax.random.key(step), (64,), 0, len(images))
        train_step(model, optimizer, images[batch], labels[batch])
        hook(step, **f.split(model))  # NTK
    hook.close()  # NTK
    writer.close()
    params, state = f.split(model).values()
    return hook, lambda params, x: f(params, x, state), params, probe


if __name__ == "__main__":
    main()
