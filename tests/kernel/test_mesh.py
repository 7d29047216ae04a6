"""The kernel on several devices is that on one; each test in a process that has eight."""

import pathlib
import socket
import subprocess
import sys

import pytest

from tests.bank import BANK

ROOT = pathlib.Path(__file__).parents[2]
SOME = [
    "fully_connected",
    "convolution_with_strides_and_both_dilations",
    "recurrence",
    "tied_embedding_and_head",
]


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernel.on_devices", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_mode_on_every_mesh():
    assert set(run(*SOME)) == set(SOME)


@pytest.mark.heavy
def test_every_mode_on_every_mesh_over_the_bank():
    own_mesh = {"sharding_constraint", "shard_map"}
    assert run() == [case.name for case in BANK if case.batched and case.name not in own_mesh]


def test_inputs_wherever_they_are():
    run("--placements")


def test_the_hook_in_a_data_parallel_step():
    run("--hook")


OF_TWO_PROCESSES = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec

for name, value in {"jax_platforms": "cpu", "jax_num_cpu_devices": 2}.items():
    jax.config.update(name, value)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from ntk_train import NTKHook, ntk

mesh = jax.make_mesh((4,), ("data",))
rng = np.random.default_rng(0)
w, v, x = (rng.standard_normal(shape, np.float32) for shape in ((5, 7), (7, 3), (8, 5)))
f = lambda params, x: jnp.tanh(x @ params[0]) @ params[1]
divided = NamedSharding(mesh, PartitionSpec("data"))
x1 = jax.make_array_from_callback(x.shape, divided, x.__getitem__)
for outputs in ("full", "trace"):
    found = ntk(f, (w, v), x1, outputs=outputs, mesh=mesh)
    whole = np.asarray(ntk(f, (w, v), x, outputs=outputs))
    for shard in found.addressable_shards:
        np.testing.assert_allclose(shard.data, whole[shard.index], rtol=1e-4, atol=1e-5)
hook = NTKHook(f, x, every_steps=1, mesh=mesh)
assert hook(0, params=(jnp.asarray(w), jnp.asarray(v))), hook.failures
np.testing.assert_allclose(hook.latest.kernel, whole, rtol=1e-4, atol=1e-5)
print(len(found.addressable_shards), "of", len(found.sharding.device_set))
"""


def test_two_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-c", OF_TWO_PROCESSES, address]
    started = [
        subprocess.Popen([*command, str(i)], cwd=ROOT, stdout=-1, stderr=-1, text=True)
        for i in range(2)
    ]
    said = [process.communicate() for process in started]
    for process, (out, err) in zip(started, said, strict=True):
        assert process.returncode == 0, err
        assert out.splitlines()[-1] == "2 of 4"
