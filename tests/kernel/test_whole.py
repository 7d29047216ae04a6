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


def test_floating_parameters_and_all_inputs_are_its_arguments():
    def traced(*arguments):
        found.append(jax.tree.map(lambda leaf: isinstance(leaf, jax.core.Tracer), arguments))
        return jnp.zeros(())

    found = []
    params = PARAMS | {"steps": np.arange(7), "activation": jnp.tanh}
    as_one_program(traced, params, np.arange(4), None)
    yes, no = (
        dict.fromkeys(("w", "v"), True),
        dict.fromkeys(("scale", "steps", "activation"), False),
    )
    assert found == [(yes | no, True, None)]


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
