"""Laws that hold for every implementation on every case of the bank."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import ntk
from ntk_train.kernel.auto import resolve
from ntk_train.kernel.options import IMPLEMENTATIONS, KernelOptions
from ntk_train.kernel.plan import Choices
from tests import oracle
from tests.bank import BANK, NETWORKS, PRECONDITIONS, PRIMITIVES
from tests.kernel.planned import kernel_of

DTYPES = {"float64": 1e-10, "float32": 2e-6}

over_bank = pytest.mark.parametrize("case", BANK, ids=lambda case: case.name)
over_implementations = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


@functools.cache
def jacobian(case, dtype, side):
    f, params, *x = case.make(dtype)
    return oracle.jacobian(f, params, x[side], forward=case.forward)


@functools.cache
def expected(case, dtype, other):
    full = oracle.contract(jacobian(case, dtype, 0), jacobian(case, dtype, int(other)))
    chosen1, chosen2 = choices(full, other)
    n, m = np.ix_(range(full.shape[0]), range(full.shape[2]))
    return {
        "full": full,
        "trace": np.einsum("nomo->nm", full),
        "sum": full.sum(axis=(1, 3)),
        "diagonal": np.einsum("nomo->nmo", full),
        "chosen": full[n, chosen1[:, None], m, chosen2[None, :]],
    }


def choices(full, other):
    """A logit for each example, of both sides."""
    o = full.shape[1]
    first = np.arange(full.shape[0]) % o
    return first, (np.arange(full.shape[2]) + 1) % o if other else first


def is_heavy(case, implementation, dtype, other):
    """What adds least: rounding, references and rounding on one batch, primitives on one.

    `auto` runs on all of the bank in float64 and on one batch.
    """
    if implementation != "structured":
        light = case not in [*PRIMITIVES, *PRECONDITIONS, *NETWORKS[5:]]
        return dtype == "float32" or not light or not other
    if case in PRECONDITIONS:
        return dtype == "float32"
    if case in PRIMITIVES:
        return dtype == "float32" or not other
    return dtype == "float32" and (case in NETWORKS[3:] or not other)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.heavy] * (i % 5 > 0), id=case.name)
        for i, case in enumerate(BANK)
        if "structured" not in case.gaps
    ],
)
def test_derivatives_that_are_found_kind_by_kind(case):
    """As in networks of many equations."""
    f, params, x1, x2 = case.make("float64")
    kernel = functools.partial(kernel_of, Choices(many=0), f, batched=case.batched)
    got = jax.jit(kernel, compiler_options=oracle.QUICK)(params, x1, x2)
    exact = expected(case, "float64", other=True)["full"]
    np.testing.assert_allclose(got, exact, atol=1e-10 * max(np.abs(exact).max(), 1))


@pytest.mark.parametrize(
    ("case", "dtype", "other", "implementation"),
    [
        pytest.param(
            *(case, dtype, other, implementation),
            marks=[pytest.mark.heavy] * is_heavy(case, implementation, dtype, other),
            id=f"{case.name}-{dtype}-{'other' if other else 'same'}_inputs-{implementation}",
        )
        for case in BANK
        for dtype in DTYPES
        for other in (False, True)
        for implementation in IMPLEMENTATIONS
    ],
)
def test_every_mode_equals_the_oracle(case, dtype, other, implementation):
    kernel = functools.partial(ntk, implementation=implementation)
    if implementation in case.gaps:
        with pytest.raises(case.gaps[implementation]):
            check_every_mode(case, dtype, other, kernel)
        return
    check_every_mode(case, dtype, other, kernel)


def check_every_mode(case, dtype, other, kernel):
    """Compares a function of the arguments of `ntk` with the oracle, in one program."""
    f, params, x1, x2 = case.make(dtype)
    want = expected(case, dtype, other)
    chosen1, chosen2 = choices(want["full"], other)

    @functools.partial(jax.jit, compiler_options=oracle.QUICK)
    def all_modes(params, x1, x2):
        modes = {"chosen": (chosen1, chosen2) if other else chosen1}
        modes |= {mode: mode for mode in want if mode != "chosen"}
        return {m: kernel(f, params, x1, x2, outputs=modes[m], batched=case.batched) for m in modes}

    inputs = params, x1, x2 if other else None
    got = all_modes(*inputs)
    for mode, kernel in want.items():
        assert got[mode].dtype == dtype
        # Entries can cancel; what they are sums of cannot be smaller than the full kernel.
        scale = max(np.abs(kernel).max(), np.abs(want["full"]).max())
        error = np.abs(got[mode] - kernel).max() / scale
        assert error < DTYPES[dtype], (mode, error)


LIGHT = ("weight_used_twice", "scan_in_a_scan", "batch_norm_in_train_mode", "dict_of_outputs")


over_cases = pytest.mark.parametrize(
    ("case", "other"),
    [
        pytest.param(
            *(case, other),
            marks=[] if other and case.name in LIGHT else pytest.mark.heavy,
            id=f"{case.name}-{'other' if other else 'same'}_inputs",
        )
        for case in BANK
        if not case.gaps
        for other in (False, True)
    ],
)


@over_cases
def test_layer_by_layer_every_mode_equals_the_oracle(case, other):
    choices = Choices(streamed=True)
    check_every_mode(case, "float64", other, functools.partial(kernel_of, choices))


@over_cases
def test_example_by_example_every_mode_equals_the_oracle(case, other):
    choices = Choices(examples=1)
    check_every_mode(case, "float64", other, functools.partial(kernel_of, choices))


@over_bank
def test_auto_takes_one_that_works_and_is_symmetric_and_positive_semidefinite(case):
    f, params, x1, _ = case.make("float64")
    auto = jax.jit(functools.partial(ntk, f, batched=case.batched))
    if "auto" in case.gaps:
        with pytest.raises(case.gaps["auto"]):
            auto(params, x1)
        return
    kernel = np.asarray(auto(params, x1))
    scale = np.abs(kernel).max()
    np.testing.assert_allclose(
        kernel, expected(case, "float64", False)["full"], rtol=0, atol=1e-10 * scale
    )
    matrix = kernel.reshape(kernel.shape[0] * kernel.shape[1], -1)
    np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=1e-13 * scale)
    assert np.linalg.eigvalsh(matrix).min() > -1e-12 * scale


@over_implementations
@pytest.mark.parametrize("name", ["fully_connected", "slices_of_stacked_and_fused_weights"])
def test_parts_by_layer_add_up(implementation, name):
    (case,) = [case for case in BANK if case.name == name]
    f, params, x1, x2 = case.make("float64")
    whole = ntk(f, params, x1, x2, implementation=implementation)
    for per_layer in (True, lambda path: "even" if len(path) % 2 else "odd"):
        parts = ntk(f, params, x1, x2, implementation=implementation, per_layer=per_layer)
        assert len(parts) >= 1
        np.testing.assert_allclose(sum(parts.values()), whole, rtol=1e-12, atol=1e-12)
    leaves = ntk(f, params, x1, x2, implementation=implementation, per_layer=lambda path: path)
    for path, part in leaves.items():
        alone = ntk(f, params, x1, x2, param_filter=lambda other, path=path: other == path)
        np.testing.assert_allclose(part, alone, rtol=1e-12, atol=1e-12)


@over_implementations
def test_permuted_examples_permute_the_kernel(implementation):
    f, params, x1, _ = BANK[1].make("float64")
    order = np.array([2, 0, 3, 1])
    kernel = ntk(f, params, x1, implementation=implementation)
    permuted = ntk(f, params, x1[order], implementation=implementation)
    np.testing.assert_allclose(permuted, kernel[order][:, :, order], rtol=1e-12)


@over_implementations
@pytest.mark.parametrize("outputs", ["full", "trace"])
def test_vmap_over_inputs_and_over_parameters(implementation, outputs):
    f, params, x1, x2 = BANK[1].make("float64")
    one = functools.partial(ntk, f, outputs=outputs, implementation=implementation)
    batches = jnp.stack([x1, -x1])
    got = jax.vmap(one, (None, 0, None))(params, batches, x2)
    np.testing.assert_allclose(got[1], one(params, -x1, x2), rtol=1e-11)
    ensemble = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    got = jax.vmap(one, (0, None))(ensemble, x1)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, params)
    np.testing.assert_allclose(got[1], one(doubled, x1), rtol=1e-11)


@over_implementations
@pytest.mark.parametrize("argument", ["params", "x"])
def test_differentiable_in_parameters_and_inputs(implementation, argument):
    f, params, x1, _ = BANK[1].make("float64")
    kernel = lambda params, x: ntk(f, params, x, implementation=implementation).sum()
    direction = jax.tree.map(jnp.cos, params if argument == "params" else x1)

    def moved(t):
        step = lambda leaf, d: leaf + t * d
        if argument == "params":
            return kernel(jax.tree.map(step, params, direction), x1)
        return kernel(params, step(x1, direction))

    got = jax.grad(moved)(0.0)
    np.testing.assert_allclose(got, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-7)


def test_auto_under_vmap_and_grad_with_closed_over_tracers():
    f, params, x1, _ = BANK[1].make("float64")

    def of_scale(scale):
        return ntk(lambda params, x: scale * f(params, x), params, x1, outputs="trace").sum()

    np.testing.assert_allclose(jax.jit(jax.grad(of_scale))(2.0), 4 * of_scale(1.0), rtol=1e-12)
    got = jax.vmap(of_scale)(jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(got[1], 9 * got[0], rtol=1e-12)


@pytest.mark.filterwarnings("ignore::ntk_train.errors.UnfactoredWarning")
@pytest.mark.parametrize(
    ("f", "params", "x", "cheapest"),
    [
        (lambda w, x: jnp.sin(x @ w), jnp.ones((64, 64)), jnp.ones((2, 64)), "structured"),
        # Used in two orientations it is not cut, and its Jacobian is O times as large.
        (lambda w, x: (x @ w) @ w.T, jnp.ones((64, 64)), jnp.ones((2, 64)), "ntk_vector_products"),
    ],
)
def test_auto_takes_the_one_with_the_fewest_operations(f, params, x, cheapest):
    resolved, _ = resolve(f, params, x, None, KernelOptions(precision=None))
    assert resolved.implementation == cheapest
    operations = {
        name: jax.jit(functools.partial(ntk, f, implementation=name))
        .lower(params, x)
        .compile()
        .cost_analysis()["flops"]
        for name in IMPLEMENTATIONS
    }
    assert min(operations, key=operations.get) == cheapest


@over_implementations
def test_low_precision_parameters_accumulate_in_float32(implementation):
    f, params, x1, _ = BANK[0].make("bfloat16")
    kernel = ntk(f, params, x1, implementation=implementation)
    assert kernel.dtype == jnp.float32
    want = oracle.kernel(f, params, x1)
    np.testing.assert_allclose(kernel, want, atol=0.02 * np.abs(want).max())


def test_a_trace_never_holds_the_full_kernel():
    n, o = 64, 64
    f = lambda w, x: jnp.sin(x @ w)
    shapes = jax.ShapeDtypeStruct((4, o), jnp.float32), jax.ShapeDtypeStruct((n, 4), jnp.float32)
    traced = jax.jit(
        functools.partial(ntk, f, outputs="trace", implementation="jacobian_contraction")
    )
    analysis = traced.lower(*shapes).compile().memory_analysis()
    full = 4 * (n * o) ** 2
    assert analysis.temp_size_in_bytes < full / 2


def test_jacobian_contraction_does_not_hold_all_jacobians_at_once():
    n, o, width, depth = 8, 8, 64, 10

    def f(params, x):
        for w in params:
            x = jnp.sin(x @ w)
        return x[:, :o]

    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
    kernel = jax.jit(functools.partial(ntk, f, implementation="jacobian_contraction"))
    analysis = kernel.lower([shape(width, width)] * depth, shape(n, width)).compile()
    jacobians = 4 * n * o * width**2 * depth
    assert analysis.memory_analysis().temp_size_in_bytes < jacobians / 3
