"""The unit roundoff of a function is that of the least precise number it computes with."""

import jax
import jax.numpy as jnp
import pytest

from ntk_train.kernel.certificate import Check
from ntk_train.program.rounding import unit_roundoff

X = jnp.ones((2, 3), jnp.float32)


def of_scan(x):
    step = lambda h, _: (h.astype(jnp.bfloat16).astype(jnp.float32), None)
    return jax.lax.scan(step, x, None, length=2)[0]


def of_branches(x):
    branches = [jnp.sin, lambda x: jax.lax.reduce_precision(x, 8, 10)]
    return jax.lax.switch(x[0, 0].astype(int) % 2, branches, x)


@pytest.mark.parametrize(
    ("f", "x", "expected"),
    [
        (jnp.sin, X, 2.0**-24),
        (jnp.sin, X.astype(jnp.float64), 2.0**-53),
        (lambda x: x @ x.T, X.astype(jnp.float64), 2.0**-53),
        (lambda x: x.astype(jnp.float16) + 1, X.astype(jnp.float64), 2.0**-11),
        (lambda x: jnp.sin(x), X.astype(jnp.bfloat16), 2.0**-8),
        (jax.jit(lambda x: jax.lax.reduce_precision(x, 8, 10)), X, 2.0**-11),
        (of_scan, X, 2.0**-8),
        (of_branches, X, 2.0**-11),
        (lambda x: x + 1, jnp.arange(3), 2.0**-53),
    ],
)
def test_of_numbers_on_a_cpu(f, x, expected):
    assert unit_roundoff(f, x) == expected


@pytest.mark.parametrize(
    ("backend", "precision", "expected"),
    [
        ("cpu", "default", 2.0**-24),
        ("gpu", "default", 2.0**-11),
        ("tpu", "default", 2.0**-8),
        ("gpu", "highest", 2.0**-24),
        ("gpu", "BF16_BF16_F32", 2.0**-8),
        ("gpu", "BF16_BF16_F32_X3", 2.0**-11),
    ],
)
def test_of_products(backend, precision, expected, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with jax.default_matmul_precision(precision):
        assert unit_roundoff(lambda x: jnp.sin(x @ x.T), X) == expected
        assert unit_roundoff(lambda x: x @ x.T, X.astype(jnp.float64)) == 2.0**-53


def test_the_products_of_a_kernel_count_though_f_has_none(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    table, tokens = jnp.ones((3, 2), jnp.float32), jnp.arange(2)
    roundoff = lambda precision: (
        Check(lambda table, x: table[x], table, tokens, precision=precision)._roundoff
    )
    assert roundoff("highest") == 2.0**-24
    assert roundoff("default") == 2.0**-11
