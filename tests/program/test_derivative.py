"""Equations that are alike have one derivative: each keeps its own line, inputs and zeros."""

import jax
import jax.numpy as jnp
import pytest

from ntk_train._jax import source_line
from ntk_train.kernel.plan import Choices
from ntk_train.program import linear
from ntk_train.program.linear import linear_program
from tests.kernel.planned import kernel_of


@jax.custom_jvp
def product(x, w):
    return x @ w


@product.defjvp
def product_jvp(primals, tangents):
    x, w = primals
    return product(x, w), tangents[0] @ w + x @ tangents[1]


def network(theta, x):
    h = jnp.tanh(x @ theta[0])
    h = jnp.tanh(h @ theta[1])
    h = product(h, theta[2])
    h = jnp.where(h.sum() > 0, h**2.0, h * h) + jnp.floor(h @ theta[3])
    return jax.nn.relu(h @ theta[4])


THETA = [jnp.full((3, 3), 0.1 * (i + 1)) for i in range(5)]
X = jnp.arange(3.0)


def lines_of_products(program):
    return [
        source_line(equation)
        for equation in program.equations
        if equation.primitive is jax.lax.dot_general_p and program.is_linear(equation)
    ]


def test_it_is_that_of_the_whole_function():
    whole = linear_program(network, THETA, X)
    program = linear_program(network, THETA, X, many=0)
    assert sorted(lines_of_products(program)) == sorted(lines_of_products(whole))
    assert len(set(lines_of_products(program))) == 4
    assert program.operations == whole.operations


def test_a_function_with_effects_is_linearised_as_a_whole(monkeypatch):
    def fails(*_):
        raise AssertionError

    def f(theta, x):
        jax.debug.callback(lambda _: None, x)
        return network(theta, x)

    monkeypatch.setattr(linear, "derivative_of", fails)
    assert linear_program(f, THETA, X, many=0).operations


@pytest.mark.parametrize("f", [lambda w, x: jnp.ones((2, 3)), lambda w, x: 0.0 * jnp.floor(w) + x])
def test_a_function_that_does_not_depend_on_the_parameters(f):
    x = jnp.ones((2, 3))
    kernel = kernel_of(Choices(many=0), f, jnp.ones(3), x)
    assert not kernel.any()
