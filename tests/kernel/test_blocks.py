"""Kernels do not depend on how many examples, outputs and entries are computed at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import explain, ntk
from ntk_train.kernel import plan
from tests import oracle

X = jax.random.normal(jax.random.key(0), (7, 4, 4, 2), "float64")


def network(params, x):
    """Convolutions whose Jacobians are formed, a dense layer whose factors are kept, biases."""
    layout = ("NHWC", "HWIO", "NHWC")
    for w, b in params["convolutions"]:
        x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)
        x = jnp.tanh(x + b)
    x = jnp.tanh(x.reshape(len(x), -1) @ params["hidden"])
    return x @ params["last"] + params["bias"]


def params_of(outputs):
    keys = iter(jax.random.split(jax.random.key(1), 8))
    normal = lambda *shape: jax.random.normal(next(keys), shape, "float64")
    return {
        "convolutions": [(normal(3, 3, 2, 3), normal(3)), (normal(3, 3, 3, 2), normal(2))],
        "hidden": normal(32, 8),
        "last": normal(8, outputs),
        "bias": normal(outputs),
    }


@pytest.fixture
def machine(monkeypatch):
    def small(examples, outputs, tile, columns=1):
        chosen = plan.Machine(30, 1e9, 1e9, 1e9, 4096, True, 1)
        monkeypatch.setattr(plan, "this_machine", lambda: chosen)
        monkeypatch.setattr(
            plan, "_blocks", lambda *_: plan.Blocks(examples, outputs, tile, columns)
        )

    return small


@pytest.mark.parametrize("other", [False, True], ids=["same_inputs", "other_inputs"])
@pytest.mark.parametrize("outputs", [5, 40], ids=["whole", "cut_at_a_bottleneck"])
@pytest.mark.parametrize(
    "blocks", [(1, 1, 1), (2, 3, 2), (3, 4, None), (7, 7, 3), (7, 7, None, 2), (7, 7, None, 7)]
)
def test_every_block_size_gives_the_same_kernel(machine, blocks, outputs, other):
    machine(*blocks)
    params, x2 = params_of(outputs), 2 * X[:3] if other else None
    want = oracle.kernel(network, params, X, x2)
    assert (explain(network, params, X, x2).plan.inner is not None) == (outputs == 40)
    kernel = jax.jit(lambda *inputs: ntk(network, *inputs, implementation="structured"))
    np.testing.assert_allclose(kernel(params, X, x2), want, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("way", ["jacobian", "half_gram", "full_gram"])
@pytest.mark.parametrize("columns", [1, 3, 7])
def test_every_way_in_columns(machine, monkeypatch, way, columns):
    machine(7, 5, None, columns)
    costs = plan._costs
    monkeypatch.setattr(plan, "_costs", lambda *args: {way: costs(*args)[way]})
    params = params_of(5)
    parts = explain(network, params, X).plan.all_parts
    assert {part.way for part in parts if part.sites[0]} <= {way, "identity"}
    want = oracle.kernel(network, params, X)
    found = jax.jit(functools.partial(ntk, network, implementation="structured"))(params, X)
    np.testing.assert_allclose(found, want, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("outputs", ["trace", "sum", "diagonal", 1])
def test_every_mode_in_blocks(machine, outputs):
    params = params_of(5)
    options = {"outputs": outputs, "implementation": "structured"}
    kernel = lambda: jax.jit(functools.partial(ntk, network, **options))(params, X)
    machine(7, 5, None)
    want = kernel()
    machine(2, 3, 2)
    np.testing.assert_allclose(kernel(), want, atol=1e-12 * np.abs(want).max())


def test_layers_in_blocks_with_a_cut(machine):
    params, options = params_of(40), {"per_layer": lambda path: path.split("/")[0]}
    want = jax.jit(
        functools.partial(ntk, network, implementation="jacobian_contraction", **options)
    )(params, X)
    machine(2, 3, 2)
    got = jax.jit(functools.partial(ntk, network, implementation="structured", **options))(
        params, X
    )
    assert set(got) == set(params)
    for path, part in got.items():
        np.testing.assert_allclose(part, want[path], atol=1e-12 * np.abs(part).max())


def test_large_networks_are_computed_in_blocks():
    """The sizes that the plan itself takes, on shapes alone."""
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, "float32")
    params = {
        "convolutions": [(shape(3, 3, 3, 64), shape(64)), (shape(3, 3, 64, 64), shape(64))],
        "hidden": shape(64 * 64 * 64, 256),
        "last": shape(256, 100),
        "bias": shape(100),
    }
    found = explain(network, params, shape(32, 64, 64, 3)).plan
    assert found.blocks.examples < 32
    assert found.blocks.tile is not None
    assert found.blocks.tile < 32
