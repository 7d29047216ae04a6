"""An NNX model as a function of its parameters: in eval mode, at the state that it is given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import NTKHook, nnx_fn

nnx = pytest.importorskip("flax.nnx")


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(jnp.tanh(self.norm(self.hidden(x)))))


X = jnp.sin(jnp.arange(15, dtype=jnp.float32)).reshape(5, 3)


def test_it_is_the_model_in_eval_mode_and_leaves_the_model_alone():
    model = Net(nnx.Rngs(0))
    f = nnx_fn(model)
    assert not model.norm.use_running_average
    assert not model.dropout.deterministic
    parts = f.split(model)
    found = f(parts["params"], X, parts["model_state"])
    np.testing.assert_array_equal(f(parts["params"], X), found)
    assert not np.allclose(model(X), found), "batch statistics and dropout"


def test_the_state_is_that_of_the_step():
    model = Net(nnx.Rngs(0))
    f = nnx_fn(model)
    before = f(f.split(model)["params"], X)
    for _ in range(3):
        model(5 + 3 * X)  # moves the running statistics, no parameter
    parts = f.split(model)
    np.testing.assert_array_equal(f(parts["params"], X), before)
    moved = f(parts["params"], X, parts["model_state"])
    assert not np.allclose(moved, before)
    model.eval()
    np.testing.assert_array_equal(moved, model(X))


def test_the_hook_differentiates_the_parameters_alone():
    model = Net(nnx.Rngs(0))
    f = nnx_fn(model)
    hook = NTKHook(f, X, every_steps=1)
    hook(0, **f.split(model))
    hook.close()
    assert hook.failures == 0
    assert hook.convention.num_parameters == 3 * 4 + 4 + 2 * 4 + 4 * 2 + 2
    assert hook.convention.function == "Net(eval mode)"

    model.eval()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    g = lambda params, x: nnx.merge(graph, params, rest)(x)
    jacobian = jax.jit(jax.jacobian(lambda params: g(params, X)))(params)
    rows = [leaf.reshape(10, -1) for leaf in jax.tree.leaves(jacobian)]
    rows = np.concatenate(rows, axis=1)
    kernel = (rows @ rows.T).reshape(5, 2, 5, 2)
    np.testing.assert_allclose(hook.latest.kernel, np.einsum("nomo->nm", kernel), rtol=1e-4)
