"""The operator against the product with the explicit kernel, in every form of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import KernelInputError, KernelOperator
from tests import oracle
from tests.spectrum import case

N, OUTPUTS = 7, 3
PARAMS, X = case.make(N, OUTPUTS)
KERNEL = oracle.kernel(case.f, PARAMS, X)
V = jax.random.normal(jax.random.key(5), (N, OUTPUTS), jnp.float64)
matvec = jax.jit(lambda operator, v: operator.matvec(v))


@pytest.mark.parametrize("chunk", [None, 1, 3, 100])
def test_any_chunk_gives_the_product(chunk):
    operator = KernelOperator(case.f, PARAMS, X, chunk=chunk)
    assert operator.shape == (N, OUTPUTS)
    assert operator.dtype == np.float64
    expected = np.einsum("nomp,mp->no", KERNEL, V)
    np.testing.assert_allclose(matvec(operator, V), expected, rtol=1e-11)


@pytest.mark.parametrize("chunk", [None, 2])
def test_sum_and_chosen_outputs(chunk):
    total = KernelOperator(case.f, PARAMS, X, outputs="sum", chunk=chunk)
    expected = np.einsum("nomp,m->n", KERNEL, V[:, 0])
    np.testing.assert_allclose(matvec(total, V[:, 0]), expected, rtol=1e-11)
    choice = np.array([0, 2, 1, 1, 0, 2, 2])
    chosen = KernelOperator(case.f, PARAMS, X, chosen=choice, chunk=chunk)
    small = KERNEL[np.arange(N), choice][:, np.arange(N), choice]
    np.testing.assert_allclose(matvec(chosen, V[:, 0]), small @ V[:, 0], rtol=1e-11)


def coupled(params, x):
    y = case.f(params, x)
    return y - y.mean(axis=0)


def test_examples_that_interact_are_taken_at_once():
    operator = KernelOperator(coupled, PARAMS, X, batched=False, chunk=2)
    expected = np.einsum("nomp,mp->no", oracle.kernel(coupled, PARAMS, X), V)
    np.testing.assert_allclose(matvec(operator, V), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk", [None, 2])
def test_other_examples(chunk):
    other = case.make(4, OUTPUTS, seed=3)[1]
    operator = KernelOperator(case.f, PARAMS, X, chunk=chunk)
    expected = np.einsum("nomp,mp->no", oracle.kernel(case.f, PARAMS, other, X), V)
    np.testing.assert_allclose(operator.cross(V, other), expected, rtol=1e-11)
    with pytest.raises(KernelInputError, match="chosen"):
        dataclasses.replace(operator, chosen=np.zeros(N, int)).cross(V, other)


def test_some_parameters_and_leaves_that_are_none():
    params = {**PARAMS, "steps": jnp.arange(3)}
    operator = KernelOperator(
        case.f, params, X, chunk=3, param_filter=lambda path: path.startswith("hidden")
    )
    jacobian = oracle.jacobian(case.f, PARAMS, X)[..., :96]
    expected = np.einsum("now,mpw,mp->no", jacobian, jacobian, V)
    np.testing.assert_allclose(matvec(operator, V), expected, rtol=1e-11)


def pytree(params, x):
    y = jnp.tanh(x["a"] @ params[0]) + jax.vmap(jax.random.uniform)(x["key"])[:, None]
    return {"one": y, "two": (y**2)[:, None] * x["scale"][:, None, None]}


def test_pytrees_of_params_inputs_and_outputs():
    params = (jax.random.normal(jax.random.key(0), (4, 2), jnp.float64),)
    keys = jax.random.split(jax.random.key(2), 5)
    x = {"a": jax.random.normal(jax.random.key(1), (5, 4)), "key": keys, "scale": jnp.arange(5.0)}
    whole = KernelOperator(pytree, params, x)
    assert whole.shape == (5, 4)
    matrix = np.stack([matvec(whole, v).ravel() for v in jnp.eye(20).reshape(20, 5, 4)])
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    v = jax.random.normal(jax.random.key(3), (5, 4))
    chunked = dataclasses.replace(whole, chunk=2)
    np.testing.assert_allclose(matvec(chunked, v).ravel(), matrix @ v.ravel(), rtol=1e-11)


def test_new_parameters_need_no_new_compilation():
    traces = []

    def counted(params, x):
        traces.append(1)
        return case.f(params, x)

    operator = KernelOperator(counted, PARAMS, X)
    matvec(operator, V)
    count = len(traces)
    doubled = dataclasses.replace(operator, params=jax.tree.map(lambda p: 2 * p, PARAMS))
    found = matvec(doubled, V)
    assert len(traces) == count
    expected = np.einsum("nomp,mp->no", oracle.kernel(case.f, doubled.params, X), V)
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_it_is_symmetric_and_of_the_dtype_of_the_outputs():
    single = jax.tree.map(lambda p: p.astype(jnp.float32), (PARAMS, X))
    operator = KernelOperator(case.f, *single, chunk=2)
    product = operator.matvec(V)
    assert product.dtype == operator.dtype == jnp.float32
    expected = np.einsum("nomp,mp->no", KERNEL, V)
    np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "match"),
    [({"outputs": "trace"}, "outputs='trace'"), ({"chunk": 0}, "chunk=0")],
)
def test_what_is_no_operator(fields, match):
    with pytest.raises(KernelInputError, match=match):
        KernelOperator(case.f, PARAMS, X, **fields).matvec(V)


def test_a_vector_of_another_shape():
    with pytest.raises(KernelInputError, match=r"\(7,\); this operator takes \(7, 3\)"):
        KernelOperator(case.f, PARAMS, X).matvec(V[:, 0])


@pytest.mark.parametrize("chunk", [None, 3])
def test_a_complex_vector_gives_a_complex_product(chunk):
    v = V + 1j * V[::-1]
    operator = KernelOperator(case.f, PARAMS, X, chunk=chunk)
    other = X[:2] + 0.5
    expected = np.einsum("nomp,mp->no", KERNEL, v)
    np.testing.assert_allclose(operator.matvec(v), expected, rtol=1e-11)
    np.testing.assert_allclose(matvec(operator, v), expected, rtol=1e-11)
    cross = np.einsum("nomp,mp->no", oracle.kernel(case.f, PARAMS, other, X), v)
    np.testing.assert_allclose(operator.cross(v, other), cross, rtol=1e-11)


def test_any_numbers_are_a_vector():
    operator = KernelOperator(case.f, PARAMS, X)
    v = np.arange(N * OUTPUTS).reshape(N, OUTPUTS) - 4
    expected = np.einsum("nomp,mp->no", KERNEL, v)
    for numbers in (v, v.astype(np.int8), v.tolist(), jnp.asarray(v, jnp.int32)):
        np.testing.assert_allclose(operator.matvec(numbers), expected, rtol=1e-11)
    positive = np.einsum("nomp,mp->no", KERNEL, v > 0)
    np.testing.assert_allclose(operator.matvec(v > 0), positive, rtol=1e-11)


def test_a_model_state_is_data():
    def scaled(params, x, model_state):
        return case.f(params, x) * model_state["scale"]

    operator = KernelOperator(scaled, PARAMS, X, chunk=3, model_state={"scale": jnp.array(2.0)})
    expected = np.einsum("nomp,mp->no", KERNEL, V)
    np.testing.assert_allclose(matvec(operator, V), 4 * expected, rtol=1e-11)
    other = dataclasses.replace(operator, model_state={"scale": jnp.array(3.0)})
    np.testing.assert_allclose(matvec(other, V), 9 * expected, rtol=1e-11)
