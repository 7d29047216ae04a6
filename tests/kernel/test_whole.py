"""Outside of `jax.jit` a kernel is one program too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import empirical_ntk_fn, ntk
from ntk_train.kernel import neural_tangents, tangent_kernel
from ntk_train.kernel.whole import as_one_program

X = jnp.linspace(-1, 1, 12).reshape(4, 3)
PARAMS = {"w": jnp.ones((3, 5)), "v": np.ones((5, 2)), "scale": 2.0}


def f(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"] * params["scale"]


def test_what_is_closed_over_is_an_argument_and_seen_as_it_is(monkeypatch):
    """As constants, 4 million numbers would be in the program, and XLA compute with them."""
    base, given, jit = jnp.ones((3, 2000)), [], jax.jit

    def recorded(function):
        compiled = jit(function)
        return lambda arrays: given.append([a.shape for a in arrays]) or compiled(arrays)

    def g(params, x):
        assert not isinstance(base, jax.core.Tracer)
        return f(params, jnp.sin(x @ base) @ jnp.cos(base).T)

    monkeypatch.setattr(jax, "jit", recorded)
    ntk(g, PARAMS, X)
    monkeypatch.undo()
    assert {(3, 2000), (3, 5), (5, 2), (4, 3)} <= set(given[-1])


def test_sizes_may_be_read_from_inputs_of_the_drop_in():
    def pooled(params, x):
        groups = np.asarray(x["groups"])
        return jax.ops.segment_sum(f(params, x["nodes"]), groups, int(groups.max()) + 1)

    x = {"groups": np.array([0, 0, 1, 2]), "nodes": X}
    assert empirical_ntk_fn(pooled, trace_axes=())(x, None, PARAMS).shape == (3, 3, 2, 2)


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0)])
def test_a_side_without_examples_within_a_budget(sizes):
    n, m = sizes
    assert ntk(f, PARAMS, X[:n], X[:m], memory_budget=1).shape == (n, 2, m, 2)


@pytest.mark.parametrize("name", ["ntk", "empirical_ntk_fn"])
def test_a_kernel_is_compiled_once_and_not_at_all_where_it_is_traced(name, monkeypatch):
    compiled = []

    def recorded(function, params, *inputs):
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, inputs))):
            compiled.append(name)
        return as_one_program(function, params, *inputs)

    for module in (tangent_kernel, neural_tangents):
        monkeypatch.setattr(module, "as_one_program", recorded)
    drop_in = empirical_ntk_fn(f, trace_axes=(), vmap_axes=0)
    kernel = (
        (lambda x: ntk(f, PARAMS, x)) if name == "ntk" else (lambda x: drop_in(x, None, PARAMS))
    )
    alone = kernel(X)
    assert compiled == [name]
    for transformed in (jax.jit(kernel)(X), jax.vmap(kernel)(X[None])[0]):
        np.testing.assert_allclose(transformed, alone, rtol=1e-11)
    assert compiled == [name]


def test_a_function_that_has_changed_is_traced_anew():
    factor = [1.0]
    g = lambda params, x: factor[0] * f(params, x)
    before = ntk(g, PARAMS, X)
    factor[0] = 2.0
    np.testing.assert_allclose(ntk(g, PARAMS, X), 4 * before, rtol=1e-12)
