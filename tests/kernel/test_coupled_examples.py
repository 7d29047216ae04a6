"""Whoever takes examples one by one warns where they interact, in `jax.jit` and on shapes too."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import (
    CoupledExamplesWarning,
    KernelOperator,
    NtkImplementation,
    empirical_ntk_fn,
    explain,
    ntk,
)
from tests import oracle

PARAMS = {"w": jnp.ones((3, 2))}
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
HERE = r"examples interact in reduce_sum \(test_coupled_examples.py:\d+\)"


def centred(params, x):
    return jnp.tanh((x - x.mean(axis=0)) @ params["w"])


def independent(params, x):
    return jnp.tanh((x - x.mean(axis=1, keepdims=True)) @ params["w"])


def anew(f):
    """Another function, of which no compiled program is kept."""
    return lambda params, x: f(params, x)


def shapes(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def drop_in(f, *, axes=0):
    return empirical_ntk_fn(f, vmap_axes=axes, implementation=NtkImplementation.AUTO)


def product(f, x=X):
    return KernelOperator(f, PARAMS, x).matvec(jnp.ones((len(x), 2)))


CALLS = {
    "ntk": lambda f: ntk(f, PARAMS, X),
    "ntk in jit": lambda f: jax.jit(lambda params, x: ntk(f, params, x))(PARAMS, X),
    "ntk with x2": lambda f: ntk(f, PARAMS, X, X[:2], outputs="trace"),
    "ntk of one example with others": lambda f: ntk(f, PARAMS, X[:1], X, outputs="sum"),
    "ntk of chosen outputs": lambda f: ntk(f, PARAMS, X, outputs=1),
    "ntk by reference": lambda f: ntk(f, PARAMS, X, implementation="jacobian_contraction"),
    "ntk by layer": lambda f: ntk(f, PARAMS, X, per_layer=True),
    "explain": lambda f: explain(f, PARAMS, X),
    "explain on shapes": lambda f: explain(f, shapes(PARAMS), shapes(X)),
    "drop-in": lambda f: drop_in(f)(X, None, PARAMS),
    "drop-in in jit": lambda f: jax.jit(lambda x, p: drop_in(f)(x, None, p))(X, PARAMS),
    "drop-in with x2": lambda f: drop_in(f)(X[:1], X, PARAMS),
    "drop-in on another axis": lambda f: drop_in(lambda p, x: f(p, x.T), axes=(1, 0, {}))(
        X.T, None, PARAMS
    ),
    "operator": product,
    "operator in jit": lambda f: jax.jit(lambda x: product(f, x))(X),
    "operator at other examples": lambda f: KernelOperator(f, PARAMS, X[:1]).cross(
        jnp.ones((1, 2)), X
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_warning_names_the_operation_its_line_and_the_remedy(call):
    with pytest.warns(CoupledExamplesWarning, match=HERE) as warned:
        CALLS[call](anew(centred))
    assert len(warned) == 1
    text = str(warned[0].message)
    assert "batched=False" in text
    assert "eval mode" in text


@pytest.mark.parametrize("call", CALLS)
def test_no_warning_where_examples_are_independent(call):
    CALLS[call](anew(independent))  # a warning would be an error


def test_no_warning_where_it_is_said_or_where_there_is_one_example():
    ntk(centred, PARAMS, X, batched=False)
    explain(centred, PARAMS, X, batched=False)
    KernelOperator(centred, PARAMS, X, batched=False).matvec(jnp.ones((5, 2)))
    empirical_ntk_fn(centred)(X, None, PARAMS)
    ntk(centred, PARAMS, X[:1])


def test_an_operator_warns_at_its_first_product_alone():
    operator = KernelOperator(anew(centred), PARAMS, X)
    with pytest.warns(CoupledExamplesWarning):
        operator.matvec(jnp.ones((5, 2)))
    operator.matvec(jnp.zeros((5, 2)))
    assert operator.shape == (5, 2)


def test_batch_norm_in_train_mode():
    """The trace of issue 15: with one example the normalised activations are zero."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.BatchNorm(not train, param_dtype=x.dtype)(nn.Dense(8, param_dtype=x.dtype)(x))
            return nn.Dense(2, param_dtype=x.dtype)(nn.relu(x))

    variables = Net().init(jax.random.key(0), X, train=False)
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    train = lambda p, x: Net().apply({"params": p, **state}, x, True, mutable=["batch_stats"])[0]
    with pytest.warns(CoupledExamplesWarning, match=HERE):
        alone = ntk(train, params, X)
    together = ntk(train, params, X, batched=False)
    np.testing.assert_allclose(together, oracle.kernel(train, params, X), rtol=1e-8, atol=1e-8)
    assert np.abs(alone - together).max() > 0.5 * np.abs(together).max()
    ntk(lambda p, x: Net().apply({"params": p, **state}, x, False), params, X)


def test_outputs_in_another_order_have_no_operation_to_name():
    square = X[:3]
    with pytest.warns(CoupledExamplesWarning, match="on another axis"):
        explain(lambda p, x: (x @ p["w"] @ jnp.ones((2, len(x)))).T, PARAMS, square)


def test_a_function_made_for_one_example_is_traced_on_one():
    def single(params, x):
        (row,) = x
        return jnp.tanh(row @ params["w"])[None]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ntk(single, PARAMS, X)
    want = ntk(lambda params, x: jnp.tanh(x @ params["w"]), PARAMS, X)
    np.testing.assert_allclose(found, want, rtol=1e-12)


def test_outputs_of_size_zero():
    assert explain(lambda p, x: (x @ p["w"])[:, :0], PARAMS, X).rows == 0
