"""Under JAX's global switches, inside of its transformations and on its meshes."""

import contextlib
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import CrossEntropy, KernelInputError, NTKHook, Training, ntk
from ntk_train.monitor import hooks_for
from tests.monitor.test_hook import PARAMS, PROBE, Recorder, f

SWITCHES = {
    "disable_jit": jax.disable_jit,
    "strict promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "no promotion of ranks": lambda: jax.numpy_rank_promotion("raise"),
    "no transfers": lambda: jax.transfer_guard("disallow"),
    "leaks": jax.checking_leaks,
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_loop_under_a_switch_is_measured_at_each_step(switch, caplog):
    half, probe = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), (PARAMS, PROBE))

    def two(params, x):  # float16, and outputs of two dtypes
        y = f(params, x)
        return y, y.astype(jnp.float32)

    training = Training(CrossEntropy(classes=(2, 2)), 0.1, batch_size=2)
    options = {"outputs": "full", "training": training, "pictures": False}
    want = ntk(two, half, probe, outputs="full")
    with SWITCHES[switch]():
        hook = NTKHook(two, probe, every_steps=1, **options)
        hook.prepare(params=half)
        for step in range(2):
            assert hook(step, params=half)  # of which the second is dispatched by the loop
            hook.wait()
    assert hook.failures == 0, caplog.text
    np.testing.assert_allclose(hook.latest.kernel, want, rtol=1e-3, atol=1e-3)
    assert hook.latest.diagnostics.scalars()["minibatch_learning_rate_ratio"] > 0


def test_examples_that_are_not_finite_are_named_under_debug_nans(caplog):
    probe = PROBE.at[jnp.array([1, 4])].set(0)
    with jax.debug_nans(True):
        hook = NTKHook(lambda p, x: jnp.sqrt(f(p, x) ** 2), probe, every_steps=1, pictures=False)
        for step in range(2):
            assert hook(step, params=PARAMS)
            hook.wait()
    assert hook.failures == 2
    assert "FloatingPointError" not in caplog.text
    assert "those of 2 of the 6 examples, at 1, 4 (from 0)" in caplog.text


CALLS = {
    "jit": lambda call: jax.jit(lambda p: (call(0, p), p)[1])(PARAMS),
    "scan": lambda call: jax.lax.scan(lambda p, i: (call(i, p) and p, None), PARAMS, jnp.arange(3)),
    "closed over": lambda call: jax.jit(lambda x: (call(0, PARAMS), x)[1])(1.0),
}


@pytest.mark.parametrize("how", CALLS)
@pytest.mark.parametrize("make", [NTKHook, lambda f, x, **kw: hooks_for(f, {"a": x, "b": x}, **kw)])
def test_inside_of_a_traced_function_it_says_once_to_be_called_outside(how, make, caplog):
    writer = Recorder()
    hook = make(f, PROBE, every_steps=1, writer=writer, max_failures=1, pictures=False)
    for _ in range(2):
        with contextlib.suppress(TypeError):  # of the scan, whose carry is what the hook returns
            CALLS[how](lambda step, params: hook(step, params=params))
    said = caplog.text.count("Call it outside, between the steps")
    assert 1 <= said <= len(getattr(hook, "keys", lambda: [0])())
    assert "Traceback" not in caplog.text
    caplog.clear()
    step = 1 if how == "closed over" else 0  # otherwise the step was not taken for done
    assert hook(step, params=PARAMS)  # it has not given up
    hook.close()
    assert not caplog.records
    scalars = writer.of("write_scalars")
    assert [step for step, found in scalars if "ntk/lambda_max" in found] == [step]


def test_to_prepare_inside_of_a_traced_function_raises():
    hook = NTKHook(f, PROBE, every_steps=1)
    with pytest.raises(KernelInputError, match="Call it outside"):
        jax.eval_shape(lambda params: hook.prepare(params=params) and 1.0, PARAMS)


PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec, reshard
from ntk_train import NTKHook, ntk

mesh = jax.make_mesh((2,), ("data",))  # with axes that are explicit
put = lambda leaf, *spec: jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*spec)))
w, v = jnp.linspace(-1, 1, 18).reshape(3, 6), jnp.linspace(1, 2, 12).reshape(6, 2)
x = jnp.sin(jnp.arange(18.0)).reshape(6, 3)
f = lambda params, x: jnp.tanh(x @ params["w"]) @ params["v"]
whole = ntk(f, {"w": w, "v": v}, x, outputs="trace")

def gathers(params, x):
    return f({name: reshard(leaf, PartitionSpec()) for name, leaf in params.items()}, x)

def divides(params, x):
    h = jnp.dot(x, params["w"], out_sharding=PartitionSpec(None, "data"))
    return jnp.dot(jnp.tanh(h), params["v"], out_sharding=PartitionSpec())

divided = {"w": put(w, None, "data"), "v": put(v, "data", None)}
by_outputs = {"w": put(w), "v": put(v, None, "data")}
cases = [
    (gathers, divided, put(x, "data"), "structured"),
    (f, by_outputs, put(x), "jacobian_contraction"),
    (f, {"w": w, "v": v}, x, "auto"),
    (divides, divided, x, "auto"),
]
step = jax.jit(lambda params: jax.tree.map(lambda leaf: leaf + 0, params), donate_argnums=0)
with jax.set_mesh(mesh):
    for number, (g, params, probe, implementation) in enumerate(cases):
        hook = NTKHook(g, probe, every_steps=1, implementation=implementation)
        params = jax.tree.map(jnp.copy, params)  # which the step may donate
        for n in range(2):
            assert hook(n, params=params), (number, n)
            params = step(params)
            hook.wait()
        assert hook.failures == 0, number
        np.testing.assert_allclose(hook.latest.kernel, whole, rtol=1e-4)
hook = NTKHook(f, x, every_steps=1)
assert hook(0, params=by_outputs) and hook.latest
np.testing.assert_allclose(hook.latest.kernel, whole, rtol=1e-4)
print("all agree")
"""


def test_parameters_and_probes_on_a_mesh_with_explicit_axes():
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
    assert done.stdout.strip() == "all agree"
