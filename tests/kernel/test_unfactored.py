"""What no rule factors is right, named once if it is large, and an error if `strict`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import UnfactoredError, UnfactoredWarning, explain, ntk


def standardized(params, x):
    w = params["w"]
    return jnp.tanh(x @ ((w - w.mean(axis=0)) / w.std(axis=0)) + params["b"])


def params_of(a, b):
    w = jax.random.normal(jax.random.key(0), (a, b))
    return {"w": w, "b": jnp.zeros(b)}


def test_a_large_weight_that_is_not_factored_is_named_with_its_line():
    params, x = params_of(64, 64), jnp.ones((2, 64))
    with pytest.warns(UnfactoredWarning, match=r"w \(64, 64\): dot_general .* test_unfactored.py:"):
        kernel = ntk(standardized, params, x, implementation="structured")
    reference = ntk(standardized, params, x, implementation="jacobian_contraction")
    np.testing.assert_allclose(kernel, reference, rtol=1e-4, atol=1e-5)


def test_a_small_one_is_not_worth_a_warning_and_an_error_if_strict():
    params, x = params_of(4, 3), jnp.ones((2, 4))
    ntk(standardized, params, x)
    with pytest.raises(UnfactoredError, match=r"(?s)w \(4, 3\).*leave out strict=True"):
        ntk(standardized, params, x, strict=True)


def test_an_implementation_that_factors_nothing_says_nothing():
    f = lambda w, x: jnp.sin((x @ w) @ w.T)
    found = explain(f, jnp.ones((64, 64)), jnp.ones((2, 64)))
    assert found.implementation == "ntk_vector_products"
    ntk(f, jnp.ones((64, 64)), jnp.ones((2, 64)))


def test_biases_and_scales_are_no_failure():
    f = lambda params, x: jnp.tanh(params["s"] * (x @ params["w"]) + params["b"])
    params = {**params_of(64, 64), "s": jnp.ones(64)}
    ntk(f, params, jnp.ones((2, 64)), strict=True)


def test_explain_shows_the_use():
    found = explain(standardized, params_of(4, 3), jnp.ones((2, 4)))
    (line,) = [line for line in str(found).splitlines() if line.startswith("w ")]
    assert "dot_general" in line
    assert "transposed" in line


def test_a_use_within_a_scan_is_found():
    def f(w, x):
        return jax.lax.scan(lambda h, _: (jnp.tanh(h @ jax.nn.softplus(w)), None), x, length=3)[0]

    with pytest.raises(UnfactoredError, match="dot_general"):
        ntk(f, jnp.eye(4), jnp.ones((2, 4)), strict=True)
