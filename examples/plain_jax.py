"""Plain JAX: a dict of arrays, a function, gradient descent on made-up data.

python examples/plain_jax.py

The lines of the hook are marked with # NTK. 2 CPU cores: 5 s.
"""

import jax
import jax.numpy as jnp

from ntk_train import NTKHook
from ntk_train.monitor import tensorboard_writer


def network(params, x):
    """Inputs [N, 8] to outputs [N, 2]."""
    return jnp.tanh(x @ params["hidden"] + params["bias"]) @ params["out"]


def loss_fn(params, x, y):
    """Mean squared error."""
    return jnp.mean((network(params, x) - y) ** 2)


@jax.jit
def train_step(params, x, y):
    """One step of gradient descent."""
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    return jax.tree.map(lambda param, grad: param - 0.05 * grad, params, grads), loss


def main(workdir="runs/plain_jax", num_steps=500, every_steps=50):
    """Trains; returns what the kernel can be computed from again."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (256, 8))
    y = jnp.stack([jnp.sin(x[:, 0]), x[:, 1] * x[:, 2]], axis=1)
    params = {
        "hidden": jax.random.normal(keys[1], (8, 32)) / 8**0.5,
        "bias": jnp.zeros(32),
        "out": jax.random.normal(keys[2], (32, 2)) / 32**0.5,
    }
    writer, probe = tensorboard_writer(workdir), x[:16]
    hook = NTKHook(network, probe, outputs="full", every_steps=every_steps, writer=writer)  # NTK
    for step in range(1, num_steps + 1):
        params, loss = train_step(params, x, y)
        writer.write_scalars(step, {"train_loss": loss})
        hook(step, params=params)  # NTK
    hook.close()  # NTK
    writer.close()
    return hook, network, params, probe


if __name__ == "__main__":
    main()
