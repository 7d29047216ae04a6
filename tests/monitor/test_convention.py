"""The noise floor is that of the products that ran, by name of the precision and device."""

import jax
import jax.numpy as jnp
import pytest

from ntk_train.monitor.convention import rounding_of

ROWS = 64
EPS = 2.0**-23


def rounding(precision, of_f, device, dtype=jnp.float32):
    leaf = jax.ShapeDtypeStruct((3, 2), dtype)
    kernel = jax.ShapeDtypeStruct((ROWS, ROWS), dtype)
    return rounding_of(precision, [leaf], kernel, [leaf], of_f, device)


@pytest.mark.parametrize(
    ("precision", "of_f", "device", "expected"),
    [
        ("highest", None, "cpu", EPS),
        ("highest", None, "gpu", EPS),
        ("default", None, "cpu", EPS),
        ("default", 10, "gpu", 2.0**-11),
        ("fastest", 10, "gpu", 2.0**-11),
        ("tensorfloat32", 10, "gpu", 2.0**-11),
        ("BF16_BF16_F32_X3", 15, "gpu", 2.0**-16),
        ("BF16_BF16_F32", 7, "gpu", 2.0**-8),
        ("BF16_BF16_F32_X6", None, "gpu", EPS),
        ("float32", None, "gpu", EPS),
        ("fast", 10, "gpu", 2.0**-20 / ROWS),
        ("split", 15, "gpu", EPS),
        # Convolutions in TF32 leave the kernel positive semidefinite.
        ("BF16_BF16_F32_X6", 10, "gpu", 2.0**-20 / ROWS),
        (None, 10, "gpu", 2.0**-20 / ROWS),
        ("bfloat16", 7, "tpu", 2.0**-8),
        ("high", 15, "tpu", 2.0**-16),
    ],
)
def test_the_rounding_of_an_entry(precision, of_f, device, expected):
    assert rounding(precision, of_f, device) == max(expected, EPS)


def test_products_in_float64_are_not_rounded():
    assert rounding("default", None, "gpu", jnp.float64) == 2.0**-52


def test_parameters_in_bfloat16_round_the_jacobian():
    leaf = jax.ShapeDtypeStruct((3, 2), jnp.bfloat16)
    kernel = jax.ShapeDtypeStruct((ROWS, ROWS), jnp.float32)
    assert rounding_of("highest", [leaf], kernel, [leaf], None, "gpu") == 2.0**-14 / ROWS
