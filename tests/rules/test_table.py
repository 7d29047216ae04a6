"""What the table says of primitives, and that nothing else in the program speaks of them."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ntk_train.program
from ntk_train.kernel.plan import Choices
from ntk_train.rules import operations, rule_of
from ntk_train.rules.table import RULES
from tests import oracle
from tests.kernel.planned import kernel_of

# What a device makes of a precision is no question of the table.
FILES = pathlib.Path(ntk_train.program.__file__).parent.glob("*.py")
FILES = sorted(path for path in FILES if path.name != "rounding.py")


def equation_of(f, *shapes):
    (equation,) = jax.make_jaxpr(f)(*map(jnp.zeros, shapes)).eqns
    return equation


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_program_knows_no_primitive_by_its_name_and_has_no_list_of_them(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr == "name":
            assert not ast.unparse(node.value).endswith("primitive"), ast.unparse(node)
        if isinstance(node, (ast.Set, ast.List, ast.Tuple, ast.Dict)):
            assert "_p" not in {part[-2:] for part in ast.unparse(node).strip("{}[]()").split(", ")}


def test_a_rule_either_rearranges_or_scales():
    assert not [rule for rule in RULES.values() if rule.rearranges and rule.scales]


@pytest.mark.parametrize(
    ("f", "shapes", "expected"),
    [
        (lambda x, w: x @ w, [(4, 3), (3, 5)], 2 * 4 * 3 * 5),
        (
            lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME", feature_group_count=2),
            [(1, 4, 6, 6), (8, 2, 3, 3)],
            2 * (6 * 6 * 8) * (2 * 3 * 3),
        ),
        (
            lambda x, w: lax.conv_general_dilated(x, w, (1, 1), [(1, 1)] * 2, (2, 3)),
            [(1, 4, 6, 6), (8, 4, 3, 3)],
            2 * (6 * 6 * 4) * (8 * 3 * 3),  # no zeros
        ),
        (lambda x: jnp.split(x, 3), [(6, 2)], 12),
        (lambda w, x: lax.scan(lambda h, w: (h @ w, h), x, w), [(7, 3, 3), (2, 3)], 7 * 36),
        (lax.exp, [(6, 2)], 12),  # not in the table
    ],
    ids=["product", "grouped convolution", "dilated input", "several outputs", "scan", "other"],
)
def test_operations_are_multiplications_and_additions(f, shapes, expected):
    assert operations(equation_of(f, *shapes)) == expected


@pytest.mark.parametrize("dilation", [(1, 1), (3, 2)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
@pytest.mark.parametrize("size", [3, 5, 24])
def test_the_form_for_a_cpu_is_the_convolution(dilation, strides, size):
    f = lambda x, w: lax.conv_general_dilated(x, w, strides, [(1, 2)] * 2, dilation, (1, 2))
    x = jax.random.normal(jax.random.key(0), (2, 3, size, size))
    w = jax.random.normal(jax.random.key(1), (4, 3, 3, 2))
    equation = equation_of(f, x.shape, w.shape)
    (y,) = rule_of(equation).on_cpu(equation, [x, w])
    np.testing.assert_allclose(y, f(x, w), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_form_for_a_cpu_rounds_narrow_numbers_once(dtype):
    f = lambda x, w: lax.conv_general_dilated(x, w, (1, 1), [(2, 2)] * 2, (2, 2))
    x = jax.random.normal(jax.random.key(0), (2, 64, 3, 3), dtype)
    w = jax.random.normal(jax.random.key(1), (8, 64, 5, 5), dtype)
    (equation,) = jax.make_jaxpr(f)(x, w).eqns
    (y,) = rule_of(equation).on_cpu(equation, [x, w])
    exact = f(x.astype("float32"), w.astype("float32"))
    assert y.dtype == x.dtype
    largest = jnp.finfo(dtype).eps / 2 * jnp.abs(exact).max()
    assert jnp.abs(y - exact).max() <= 1.01 * largest


@pytest.mark.parametrize("dtype", ["int8", "bool"])
def test_integers_that_meet_a_weight_in_a_product_are_numbers(dtype):
    def f(params, x):
        numbers = (((1,), (0,)), ((), ()))
        h = lax.dot_general(x, params[0], numbers, preferred_element_type=params[0].dtype)
        return jnp.tanh(h) @ params[1]

    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=size)) for size in ((3, 4), (4, 2))]
    x = jnp.asarray(rng.integers(-3, 4, size=(3, 3)), dtype)
    for way in ("full_gram", "half_gram", "jacobian"):
        kernel = kernel_of(Choices(ways=[way]), f, params, x)
        np.testing.assert_allclose(kernel, oracle.kernel(f, params, x), atol=1e-10)
