"""The unit roundoff of a function is that of the least precise number it computes with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import KernelInputError, KernelOperator, NTKHook, certify, ntk
from ntk_train.kernel.certificate import roundoff_of_products
from ntk_train.kernel.precision import bits_of_f, precision_of_products, what_ran
from ntk_train.program.rounding import NAMES, factor_bits, product_bits, unit_roundoff

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


DEVICES = ("cpu", "gpu", "tpu")
BITS = {  # that each device keeps of the factors of a product; None for those of float32
    "default": (None, 10, 7),
    "bfloat16": (None, 10, 7),
    "fastest": (None, 10, 7),
    "high": (None, 10, 15),
    "tensorfloat32": (None, 10, 15),
    "bfloat16_3x": (None, 10, 15),
    "highest": (None, None, None),
    "float32": (None, None, None),
    "ANY_F8_ANY_F8_F32": (2, 2, 2),
    "ANY_F8_ANY_F8_F32_FAST_ACCUM": (2, 2, 2),
    "ANY_F8_ANY_F8_ANY": (2, 2, 2),
    "ANY_F8_ANY_F8_ANY_FAST_ACCUM": (2, 2, 2),
    "F16_F16_F16": (10, 10, 10),
    "F16_F16_F32": (None, 10, 10),
    "BF16_BF16_BF16": (None, 7, 7),
    "BF16_BF16_F32": (None, 7, 7),
    "BF16_BF16_F32_X3": (None, 15, 15),
    "BF16_BF16_F32_X6": (None, None, None),
    "BF16_BF16_F32_X9": (None, 10, None),
    "TF32_TF32_F32": (None, 10, 10),
    "TF32_TF32_F32_X3": (None, 15, 10),
    "F32_F32_F32": (None, None, None),
    "F64_F64_F64": (None, None, None),
}
KNOWN = [name for name in BITS if name in NAMES]  # an older JAX has fewer presets
LEVELS = list(BITS)[:8]


def test_every_name_of_a_precision_is_here():
    assert set(NAMES) <= set(BITS)
    assert set(LEVELS) < set(NAMES)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("device", DEVICES)
def test_what_a_product_keeps_of_its_factors(name, device):
    expected = BITS[name][DEVICES.index(device)]
    assert factor_bits(name, device) == expected
    # XLA drops a preset of a convolution.
    of = BITS[name if name in LEVELS else "default"][DEVICES.index(device)]
    assert factor_bits(name, device, is_convolution=True) == of


@pytest.mark.parametrize("device", DEVICES)
def test_a_precision_in_an_equation_is_that_of_its_name(device):
    for name in KNOWN:
        with precision_of_products(name):
            (dot,) = jax.make_jaxpr(lambda x: x @ x.T)(X).eqns[-1:]
        assert factor_bits(dot.params["precision"], device) == factor_bits(name, device), name
    assert factor_bits(None, device) == factor_bits("default", device)
    pair = (jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT)
    assert factor_bits(pair, device) == factor_bits("default", device)
    assert factor_bits("default", "another") == factor_bits("default", "gpu")


@pytest.mark.parametrize("name", KNOWN)
def test_what_a_cpu_keeps_is_what_runs(name):
    a = jax.random.normal(jax.random.key(0), (32, 64), jnp.float32)
    exact = np.asarray(a, np.float64) @ np.asarray(a, np.float64).T
    with precision_of_products(name):
        traced = jax.jit(lambda a: a @ a.T).trace(a)
        try:
            got = traced.lower().compile()(a)
        except ValueError:  # what JAX does not have on a CPU
            assert name not in LEVELS
            return
    error = np.abs(np.asarray(got) - exact).max() / np.abs(exact).max()
    bits = factor_bits(name, "cpu")
    assert error < 2.0 ** -((23 if bits is None else bits) - 1)


def conv(x):
    return jax.lax.conv(x[None, None], x[None, None], (1, 1), "SAME")


@pytest.mark.parametrize(
    ("f", "device", "precision", "expected"),
    [
        (lambda x: x @ x.T, "cpu", "default", None),
        (lambda x: x @ x.T, "gpu", "default", 10),
        (lambda x: x @ x.T, "tpu", "default", 7),
        (lambda x: x @ x.T, "gpu", "BF16_BF16_F32_X6", None),
        (conv, "gpu", "BF16_BF16_F32_X6", 10),
        (conv, "gpu", "F32_F32_F32", 10),
        (conv, "gpu", "highest", None),
        (conv, "tpu", "BF16_BF16_F32_X6", 7),
        (jnp.sin, "gpu", "default", None),
    ],
)
def test_of_the_products_of_a_function(f, device, precision, expected):
    with precision_of_products(precision):
        assert product_bits(jax.make_jaxpr(f)(X).jaxpr, device) == expected
        assert product_bits(jax.make_jaxpr(f)(X.astype(jnp.float64)).jaxpr, device) is None
        roundoff = 2.0 ** -((23 if expected is None else expected) + 1)
        assert unit_roundoff(jax.jit(f), X, device=device) == roundoff


def test_a_preset_of_a_convolution_counts_where_it_is_computed():
    """In the branches of a condition convolutions are as they are written: XLA drops it there."""

    def in_a_condition(x):
        return jax.lax.cond(x[0, 0] > 0, conv, conv, x)

    for f, expected in ((jax.jit(conv), 15), (in_a_condition, 10)):
        with precision_of_products("BF16_BF16_F32_X3"):
            program = jax.make_jaxpr(f)(X).jaxpr
        assert bits_of_f("BF16_BF16_F32_X3", program, "structured", "gpu") == expected
        assert bits_of_f("BF16_BF16_F32_X3", program, "jacobian_contraction", "gpu") == 10


def test_the_products_of_a_kernel_count_though_f_has_none():
    narrow, wide = [X], [X.astype(jnp.float64)]
    assert roundoff_of_products(narrow, "highest", "gpu") == 2.0**-24
    assert roundoff_of_products(narrow, None, "gpu") == 2.0**-24
    assert roundoff_of_products(narrow, "default", "gpu") == 2.0**-11
    assert roundoff_of_products(narrow, "default", "cpu") == 2.0**-24
    assert roundoff_of_products(wide, "default", "gpu") == 2.0**-53


@pytest.mark.parametrize(
    ("precision", "of_f", "device", "expected"),
    [
        ("highest", None, "gpu", "highest"),
        ("default", None, "cpu", "default"),
        ("default", 10, "gpu", "default (TF32)"),
        ("default", 7, "tpu", "default (bfloat16)"),
        ("high", 15, "tpu", "high (two bfloat16)"),
        ("BF16_BF16_F32_X6", None, "gpu", "BF16_BF16_F32_X6"),
        ("BF16_BF16_F32_X6", 10, "gpu", "BF16_BF16_F32_X6 (float32, in f TF32)"),
        (None, 10, "gpu", "None (float32, in f TF32)"),
    ],
)
def test_a_precision_is_written_with_what_ran(precision, of_f, device, expected):
    assert what_ran(precision, jnp.float32, of_f, device) == expected


@pytest.mark.parametrize("name", ["exact", "HIGHEST", "DEFAULT", "", 32, jax.lax.Precision.HIGH])
@pytest.mark.usefixtures("without_type_checks")
def test_a_name_that_is_not_known_is_refused_everywhere(name):
    x, f = jnp.eye(3), lambda w, x: jnp.tanh(x @ w)
    for call in (
        lambda: ntk(f, x, x, precision=name),
        lambda: ntk(f, x, x, precision=name, check=True),
        lambda: certify(x, f, x, x, outputs="trace", precision=name),
        lambda: KernelOperator(f, x, x, precision=name),
        lambda: NTKHook(f, x, every_steps=1, precision=name),
    ):
        with pytest.raises(KernelInputError, match=r"precision=.* None or one of \['float32'"):
            call()


@pytest.mark.parametrize("name", LEVELS)
def test_aliases_are_taken(name):
    x, f = jnp.eye(3), lambda w, x: jnp.tanh(x @ w)
    assert ntk(f, x, x, precision=name).shape == (3, 3, 3, 3)
