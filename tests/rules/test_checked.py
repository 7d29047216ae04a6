"""A rule whose factors have other shapes than it says is refused when a site is found."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from ntk_train import explain
from ntk_train.errors import RuleError
from ntk_train.rules import Rule, convolution, dot_general, factors_of, gather
from ntk_train.rules.checked import checked
from ntk_train.rules.table import RULES

DENSE = (lambda x, w: x @ w), (4, 3), (3, 5)
CONVOLUTION = (
    lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME"),
    (1, 2, 6, 6),
    (5, 2, 3, 3),
)


def equation_of(f, *shapes):
    (equation,) = jax.make_jaxpr(f)(*map(jnp.zeros, shapes)).eqns
    return equation


def lookup():
    rows = lax.GatherDimensionNumbers((1,), (0,), (0,))
    f = lambda table, i: lax.gather(table, i, rows, (1, 3), mode="clip")
    return jax.make_jaxpr(f)(jnp.zeros((7, 3)), jnp.zeros((4, 1), int)).eqns[0]


def spoilt(rule, **changes):
    """The rule with fields of its factors replaced, each by a function of the factors."""

    def wrong(equation, weight):
        factors = rule(equation, weight)
        return dataclasses.replace(factors, **{k: of(factors) for k, of in changes.items()})

    return wrong


def swapped(name):
    """A factor with its last two axes in the other order."""
    return lambda factors: lambda operand: getattr(factors, name)(operand).swapaxes(1, 2)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"x": swapped("x")}, r"x gives float64\[1, 3, 4\]; expected \[r,t,a\] = \[1, 4, 3\]"),
        ({"g": swapped("g")}, r"g gives float64\[1, 5, 4\]; expected \[r,t,b\] = \[1, 4, 5\]"),
        ({"x": lambda _: lambda x: x.reshape(1, 5, 3)}, r"x gives .*reshape.*; expected \[r,t,a\]"),
        ({"t": lambda _: 2}, r"x gives float64\[1, 4, 3\]; expected \[r,t,a\] = \[1, 2, 3\]"),
        ({"a": lambda _: 4}, r"\[r,a,b\] gives \[1, 4, 5\]; expected as many entries as"),
        ({"data": lambda _: 1}, r"the position of the data gives 1; expected that of another"),
        ({"pieces": lambda f: [f.x, f.x]}, r"pieces gives float64\[1, 4, 6\]; expected \[r,t,a\]"),
        ({"one_hot": lambda _: True}, r"x gives .*; expected \[r,t,1\] = \[1, 4, 1\]"),
    ],
)
def test_a_wrong_rule_is_named_with_the_shapes_that_came_and_were_expected(change, text):
    equation = equation_of(*DENSE)
    assert checked(dot_general.factors, equation, 1) is not None
    of = (
        r"The rule tests\.rules\.test_checked\.spoilt\S* is wrong for dot_general of "
        r"float64\[4, 3\] and float64\[3, 5\], with input 1 as the weight, to float64\[4, 5\]: "
    )
    with pytest.raises(RuleError, match=of + text):
        checked(spoilt(dot_general.factors, **change), equation, 1)


def test_pieces_of_patches_have_to_be_all_of_them():
    equation = equation_of(*CONVOLUTION)
    assert len(checked(convolution.factors, equation, 1).pieces) == 3
    wrong = spoilt(convolution.factors, pieces=lambda factors: factors.pieces[1:])
    with pytest.raises(RuleError, match=r"pieces gives float64\[1, 36, 12\]; .* \[1, 36, 18\]"):
        checked(wrong, equation, 1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.uint8])
def test_indices_are_signed(dtype):
    assert checked(gather.factors, lookup(), 0).one_hot
    of = lambda factors: lambda index: factors.x(index).astype(dtype)
    with pytest.raises(RuleError, match="expected indices of a signed type"):
        checked(spoilt(gather.factors, x=of), lookup(), 0)


def test_explain_refuses_a_wrong_rule(monkeypatch):
    wrong = Rule(factors=spoilt(dot_general.factors, g=swapped("g")))
    monkeypatch.setitem(RULES, lax.dot_general_p, wrong)
    with pytest.raises(RuleError, match=r"dot_general of float64\[1, 9\].*expected \[r,t,b\]"):
        explain(lambda w, x: jnp.tanh(x @ w).sum(-1), jnp.ones((9, 4)), jnp.ones((2, 9)))


def test_equations_of_one_form_are_asked_and_checked_once():
    first, second = equation_of(*DENSE), equation_of(*DENSE)
    assert factors_of(first, 1) is factors_of(second, 1)
    assert factors_of(first, 0) is not factors_of(first, 1)
    transposed = equation_of(
        lambda x, w: lax.dot_general(x, w, (((1,), (1,)), ((), ()))), (4, 3), (5, 3)
    )
    assert factors_of(transposed, 1).weight_axes != factors_of(first, 1).weight_axes
