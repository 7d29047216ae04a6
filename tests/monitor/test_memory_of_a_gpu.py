"""A GPU that is nearly full, in place of injected errors: `JAX_PLATFORMS=cuda pytest` runs this."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import networks
from ntk_train import NTKHook, ntk
from tests.monitor.test_hook import Recorder

MEGABYTE = 2**20

pytestmark = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")


def fill(free: float) -> list[jax.Array]:
    """Arrays that leave so many bytes of what JAX may take."""
    device, arrays = jax.local_devices()[0], []
    for piece in (256 * MEGABYTE, 16 * MEGABYTE):
        while True:
            stats = device.memory_stats()
            if stats["bytes_limit"] - stats["bytes_in_use"] < free + piece:
                break
            arrays.append(jax.block_until_ready(jnp.zeros(piece, jnp.uint8)))
    return arrays


@pytest.mark.heavy
def test_a_kernel_that_does_not_fit_is_made_in_smaller_blocks(caplog):
    network = networks.resnet50(1)
    x = network.inputs(32)
    kernel = jax.jit(lambda p, x: ntk(network.f, p, x))
    expected = np.asarray(kernel(network.params, x))  # while there is room
    step = jax.jit(lambda p: jax.tree.map(lambda leaf: 0.5 * leaf, p), donate_argnums=0)

    def train(hook):
        params = jax.tree.map(jnp.copy, network.params)
        for i in range(3):
            if hook is not None:
                hook(i, params=params)
            params = step(params)
        return jax.device_get(params)

    alone = train(None)
    full = fill(1.5e9)
    writer = Recorder()
    with NTKHook(network.f, x, every_steps=2, outputs="full", writer=writer) as hook:
        with_hook = train(hook)
    del full
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(with_hook), strict=True):
        np.testing.assert_array_equal(a, b)
    assert "RESOURCE_EXHAUSTED" in caplog.text
    assert "is compiled anew with blocks of at most" in caplog.text
    assert hook.failures == caplog.text.count("Out of memory at step")
    assert hook.latest.step == 2
    first = dict(writer.of("write_scalars"))[0]
    assert first["ntk/failures"] == hook.failures
    top = np.linalg.eigvalsh(np.float64(expected.reshape(32, 32)))[-1]
    np.testing.assert_allclose(first["ntk/lambda_max"], top, rtol=1e-4)
