"""The certificate passes every right kernel, and no wrong one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import KernelInputError, WrongKernelError, certify, ntk
from ntk_train.kernel.certificate import Check
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.ways import Identity
from tests import oracle
from tests.bank import BANK
from tests.kernel.test_laws import choices, expected

CASES = {case.name: case for case in BANK}
MODES = ["full", "trace", "sum", "diagonal", "chosen"]


def compiled(f, params, x1, x2=None, *, seed=0, **options):
    """From a kernel to its certificate; the derivatives of f are computed once."""
    check = Check(f, params, x1, x2, KernelOptions(**options), seed=seed)
    product = jax.jit(functools.partial(check.product, f), compiler_options=oracle.QUICK)
    products = [product(params, x1, x2, a_pass) for a_pass in check.passes]
    return functools.partial(check.compare, products=products)


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_right_kernel_holds_and_a_slightly_wrong_one_does_not(mode, other):
    case = CASES["fully_connected"]
    f, params, x1, x2 = case.make("float64")
    full = expected(case, "float64", other)
    outputs = choices(full["full"], other)
    outputs = mode if mode != "chosen" else outputs if other else outputs[0].astype(np.uint8)
    certificate_of = compiled(f, params, x1, x2 if other else None, outputs=outputs)
    right = full[mode]
    assert certificate_of(right).holds
    assert certificate_of(right).deviation < 1e-13
    no_number = right.copy()
    no_number[(0,) * right.ndim] = np.nan
    for wrong in (right * (1 + 1e-6), -right, right[::-1], np.zeros_like(right), no_number):
        assert not certificate_of(wrong).holds


def test_each_layer_is_checked_by_itself():
    f, params, x1, _ = CASES["fully_connected"].make("float64")
    kernels = ntk(f, params, x1, per_layer=lambda path: path)
    certificate_of = compiled(f, params, x1, per_layer=lambda path: path)
    assert certificate_of(kernels).holds
    kernels["b/0"] = kernels["b/0"] * (1 + 1e-7)
    assert certificate_of(kernels).wrong == ["b/0"]


def test_the_trace_of_many_outputs_is_checked_by_random_signs():
    w, x = jax.random.normal(jax.random.key(0), (5, 40)), jnp.linspace(-1, 1, 20).reshape(4, 5)
    f = lambda w, x: jnp.tanh(x @ w) + jnp.cos(jnp.arange(40.0))
    for mode in ("trace", "diagonal"):
        kernel = ntk(f, w, x, outputs=mode)
        for seed in range(3):
            certificate_of = compiled(f, w, x, outputs=mode, seed=seed)
            assert certificate_of(kernel).holds
            assert not certificate_of(0.3 * kernel).holds


def test_parameters_without_a_derivative_and_a_bias_that_cancels():
    def f(params, x):
        h = x @ params["w"] + params["cancels"]
        return (h - h.mean(axis=1, keepdims=True)) * params["zero"]

    params = {
        "w": jnp.eye(5, 3),
        "cancels": jnp.ones(()),
        "zero": jnp.zeros(3),
        "none": jnp.ones(2),
    }
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    for zero in (0.0, 1.0):
        params["zero"] = jnp.full(3, zero, jnp.float32)
        kernels = ntk(f, params, x, per_layer=lambda path: path)
        certificate = certify(kernels, f, params, x, per_layer=lambda path: path)
        assert certificate.holds, certificate


def test_ntk_with_check_names_the_layer_that_is_wrong(monkeypatch):
    f, params, x1, x2 = CASES["fully_connected"].make("float64")
    right = ntk(f, params, x1, x2, check=True)
    identity = Identity.contract
    doubled = lambda *arguments: identity(*arguments)._replace(
        values=2 * identity(*arguments).values
    )
    monkeypatch.setattr(Identity, "contract", doubled)
    with pytest.raises(
        WrongKernelError, match=r"w/1 \(1\), b/1 \(1\)|b/1 \(1\), w/1 \(1\)"
    ) as raised:
        ntk(f, params, x1, check=True, implementation="structured")
    assert "w/0" not in str(raised.value)
    assert "jacobian_contraction" in str(raised.value)
    plain = ntk(f, params, x1, x2, check=True, implementation="jacobian_contraction")
    np.testing.assert_allclose(plain, right, rtol=1e-12)


@pytest.mark.filterwarnings("ignore::ntk_train.errors.CoupledExamplesWarning")
def test_examples_that_interact_are_told_from_a_fault():
    case = CASES["batch_norm_in_train_mode"]
    f, params, x1, _ = case.make("float64")
    assert ntk(f, params, x1, batched=False, check=True).shape[0] == 4
    with pytest.raises(WrongKernelError, match="batched=False"):
        ntk(f, params, x1, check=True, outputs="trace")


def test_check_is_refused_where_numbers_are_not_known():
    f, params, x1, _ = CASES["one_matrix"].make("float64")
    checked = functools.partial(ntk, f, check=True)
    with pytest.raises(KernelInputError, match=r"ntk_train\.certify"):
        jax.jit(checked)(params, x1)
    kernel = jax.jit(functools.partial(ntk, f))(params, x1)
    assert certify(kernel, f, params, x1).holds


def test_a_kernel_of_other_arguments_is_refused():
    f, params, x1, x2 = CASES["one_matrix"].make("float64")
    kernel = ntk(f, params, x1, x2)
    with pytest.raises(KernelInputError, match=r"kernel has shape \(4, 3, 3, 3\)"):
        certify(kernel, f, params, x1)
    with pytest.raises(KernelInputError, match="the parts"):
        certify(kernel, f, params, x1, x2, per_layer=lambda path: "all")
    with pytest.raises(KernelInputError, match="chooses logits"):
        certify(kernel[:, 0, :, 0], f, params, x1, x2, outputs=(np.full(4, 3), np.full(3, 0)))


def rounded(f):
    """f of parameters and inputs, and with outputs, that a TF32 product has rounded."""

    def of_rounded(params, x):
        less = lambda leaf: (
            jax.lax.reduce_precision(leaf, 8, 10)
            if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
            else leaf
        )
        return jax.tree.map(less, f(jax.tree.map(less, params), jax.tree.map(less, x)))

    return of_rounded


def as_type(dtype, leaf):
    """A floating-point leaf in another dtype."""
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return leaf
    return jnp.asarray(leaf, dtype)


@pytest.mark.parametrize(
    ("case", "dtype", "wrap", "precision"),
    [
        pytest.param(
            *(case, dtype, wrap, precision),
            marks=[] if case.name == "fully_connected" else pytest.mark.heavy,
            id=f"{case.name}-{name}",
        )
        for case in BANK
        if "structured" not in case.gaps
        for name, dtype, wrap, precision in (
            ("float32", "float32", lambda f: f, "highest"),
            ("tf32", "float32", rounded, "highest"),
            ("bfloat16", "bfloat16", lambda f: f, "highest"),
            # On a GPU (JAX_PLATFORMS=cuda) products are rounded to TF32.
            ("default", "float32", lambda f: f, "default"),
        )
    ],
)
def test_no_false_alarm_on_the_bank(case, dtype, wrap, precision):
    f, *arguments = case.make("float32")
    params, x1, x2 = jax.tree.map(lambda leaf: as_type(dtype, leaf), arguments)
    f = wrap(f)
    try:
        jax.jit(f).lower(params, x1)
    except (TypeError, ValueError, NotImplementedError):
        assert dtype == "bfloat16"
        pytest.skip("the function takes no bfloat16")
    for mode, other in (("full", False), ("full", True), ("trace", False)):
        x = x2 if other else None
        options = {"outputs": mode, "precision": precision}
        kernel = ntk(f, params, x1, x, batched=case.batched, **options)
        certificate = certify(kernel, f, params, x1, x, **options)
        assert certificate.holds, (mode, other, certificate)
