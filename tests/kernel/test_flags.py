"""The kernel is the same under JAX's global flags, for narrow dtypes and over an explicit mesh."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import KernelOperator, empirical_ntk_fn, explain, kernel_spectrum, ntk
from ntk_train.kernel.options import IMPLEMENTATIONS
from tests import oracle

KEYS = jax.random.split(jax.random.key(0), 6)
X = jax.random.normal(KEYS[0], (4, 3))
V = jax.random.normal(KEYS[1], (4, 3))
TOKENS = jax.random.randint(KEYS[2], (4, 5), 0, 7)


def embedded(params, tokens):
    """An embedding, a scan over layers and a head that is transposed: all convert params first."""

    def layer(h, w):
        return jnp.tanh(h @ w.astype(h.dtype)), None

    h = params["embedding"][tokens].astype(jnp.float32).mean(1)
    h, _ = jax.lax.scan(layer, h, params["layers"])
    return h @ params["head"].T.astype(h.dtype)


def narrow_params(dtype):
    shapes = {"embedding": (7, 4), "layers": (2, 4, 4), "head": (3, 4)}
    keys = jax.random.split(KEYS[3], len(shapes))
    return {
        name: jax.random.normal(key, shape).astype(dtype)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def mixed(params, x):
    """Parameters and outputs of several dtypes, without an implicit promotion."""
    h = jnp.tanh(x @ params["w"] + params["b"].reshape(1, -1))
    low = h.astype(params["u"].dtype) @ params["u"]
    return {"low": low, "high": h @ params["v"]}


MIXED = {
    "w": jax.random.normal(KEYS[4], (3, 4)),
    "b": jnp.linspace(-1, 1, 4),
    "u": jax.random.normal(KEYS[5], (4, 1)).astype(jnp.bfloat16),
    "v": jax.random.normal(KEYS[1], (4, 2)).astype(jnp.float32).astype(jnp.float64),
}


def check(f, params, x, full, rtol):
    """Each public function that makes a kernel of f, against the full one."""
    close = {"rtol": rtol, "atol": rtol * np.max(np.abs(full))}
    for implementation in IMPLEMENTATIONS:
        kernel = ntk(f, params, x, implementation=implementation)
        np.testing.assert_allclose(kernel, full, **close, err_msg=implementation)
    traced = ntk(f, params, x, outputs="trace", batched=False)
    np.testing.assert_allclose(traced, np.einsum("nomo->nm", full), **close)
    assert "parameters" in str(explain(f, params, x))
    zipped = empirical_ntk_fn(f, vmap_axes=0, trace_axes=())(x, None, params)
    last = jax.tree.leaves(zipped)[-1]  # leaves of outputs have their kernels apart
    o = last.shape[-1]
    np.testing.assert_allclose(last, full[:, -o:, :, -o:].transpose(0, 2, 1, 3), **close)
    product = KernelOperator(f, params, x, chunk=3).matvec(V)
    close["atol"] *= 10
    np.testing.assert_allclose(product, np.einsum("nomp,mp->no", full, V), **close)


def test_strict_promotion_and_ranks_change_no_kernel():
    full = oracle.kernel(mixed, MIXED, X)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        check(mixed, MIXED, X, full, rtol=1e-2)
        spectrum = kernel_spectrum(ntk(mixed, MIXED, X, outputs="sum"))
    expected = np.linalg.eigvalsh(full.sum((1, 3)))[-1]
    assert spectrum.lambda_max == pytest.approx(expected, rel=1e-2)


def test_without_jit_the_kernel_is_the_same():
    f, w = (lambda w, x: jnp.tanh(x @ w)), MIXED["w"]
    full = oracle.kernel(f, w, X)
    with jax.disable_jit():
        for implementation in IMPLEMENTATIONS:
            kernel = ntk(f, w, X, outputs="trace", implementation=implementation)
            np.testing.assert_allclose(kernel, np.einsum("nomo->nm", full), rtol=1e-12)
        product = KernelOperator(f, w, X, chunk=3).matvec(jnp.ones((4, 4)))
    np.testing.assert_allclose(product, full.sum((2, 3)), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float16"])
def test_narrow_parameters_have_derivatives_of_their_wider_values(dtype):
    params = narrow_params(dtype)
    full = oracle.kernel(embedded, params, TOKENS)
    # JAX rounds a derivative in a float16 parameter to float16; one in a float8 is not rounded.
    rtol = 1e-5 if dtype.startswith("float8") else 2e-3
    check(embedded, params, TOKENS, full, rtol)


def test_a_network_that_computes_in_float8_gets_the_derivatives_of_that():
    weight = narrow_params("float8_e4m3fn")["head"]

    def f(params, x):
        narrow = jnp.tanh(x).astype(params.dtype)
        return jax.lax.dot_general(
            narrow, params, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
        )

    x = jax.random.normal(KEYS[4], (4, 4))
    inputs = np.asarray(jnp.tanh(x).astype(weight.dtype), np.float64)
    full = np.einsum("na,ma,op->nomp", inputs, inputs, np.eye(3))
    for implementation in IMPLEMENTATIONS:
        kernel = ntk(f, weight, x, implementation=implementation)
        np.testing.assert_allclose(kernel, full, rtol=1e-6, atol=1e-7)


PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from ntk_train import KernelOperator, empirical_ntk_fn, ntk

def f(params, x):
    h = jnp.tanh(jax.lax.conv(x, params["k"], (1, 1), "SAME"))
    return h.reshape(h.shape[0], -1) @ params["w"]

keys = jax.random.split(jax.random.key(0), 3)
params = {"k": jax.random.normal(keys[0], (4, 2, 3, 3)), "w": jax.random.normal(keys[1], (36, 2))}
x = jax.random.normal(keys[2], (4, 2, 3, 3))
full = np.asarray(ntk(f, params, x))
product = np.einsum("nomp->no", full)
mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
put = lambda tree, spec: jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, spec)), tree)

def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)

def check(params, x):
    for implementation in ("structured", "jacobian_contraction", "ntk_vector_products"):
        close(ntk(f, params, x, implementation=implementation), full)
    within = dict(outputs="trace", memory_budget=5000, implementation="structured")
    close(ntk(f, params, x, **within), np.einsum("nomo->nm", full))
    jitted = jax.jit(lambda params, x: ntk(f, params, x, x, implementation="jacobian_contraction"))
    close(jitted(params, x), full)
    zipped = empirical_ntk_fn(f, vmap_axes=0, trace_axes=())(x, None, params)
    close(zipped, full.transpose(0, 2, 1, 3))
    operator = KernelOperator(f, params, x, chunk=3)
    close(operator.cross(put(jnp.ones((4, 2)), P("data")), x), product)

check(put(params, P()), put(x, P("data")))
jax.set_mesh(mesh)
check(put(params, P("data")), put(x, P("data")))
print("agree")
"""


def test_arrays_over_a_mesh_in_explicit_mode():
    devices = {"JAX_PLATFORMS": "cpu"}
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=pathlib.Path(__file__).parents[2],
        env=os.environ | devices | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "agree"
