"""Inputs sharded over devices give the kernel of the same inputs on one."""

import os
import pathlib
import subprocess
import sys

PROGRAM = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ntk_train import NTKHook, empirical_ntk_fn, linen_fn, models, ntk

mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
model = models.create_model("cnn", num_outputs=3)
x = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
params = model.init(jax.random.key(1), x)["params"]
sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
replicated = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
f = linen_fn(model)
whole = ntk(f, params, x, outputs="trace")
for implementation in ("structured", "jacobian_contraction", "ntk_vector_products"):
    got = ntk(f, replicated, sharded, outputs="trace", implementation=implementation)
    np.testing.assert_allclose(got, whole, rtol=1e-4)
    hook = NTKHook(f, sharded, every_steps=1, implementation=implementation)
    assert hook(0, params=replicated), hook.failures
    np.testing.assert_allclose(hook.latest.kernel, whole, rtol=1e-4)
np.testing.assert_allclose(
    3 * empirical_ntk_fn(f, vmap_axes=0)(sharded, None, params), whole, rtol=1e-4
)
print(jax.device_count(), "devices agree")
"""


def test_sharded_inputs_of_a_convolutional_network():
    devices = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=pathlib.Path(__file__).parents[2],
        env=os.environ | devices,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2 devices agree"
