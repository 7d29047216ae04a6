"""Kernels of what is made of the outputs: directions, functions, random projections."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_train
from ntk_train import (
    KernelInputError,
    NTKHook,
    Projections,
    certify,
    estimate_trace_kernel,
    ntk,
    ntk_to,
)
from tests import oracle
from tests.bank import BANK

NAMES = [
    "fully_connected",
    "dict_of_outputs",
    "outputs_with_positions",
    "recurrence",
    "convolution_in_groups",
]
FIVE = pytest.mark.parametrize(
    "case", [case for case in BANK if case.name in NAMES], ids=lambda case: case.name
)


def f(params, x):
    h = jnp.tanh(x @ params["w"])
    return {"a": h @ params["v"], "b": h[:, :2] ** 2}


def wide(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def example(outputs=40):
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(5, 7)), "v": rng.normal(size=(7, outputs))}
    return params, rng.normal(size=(4, 5)), rng.normal(size=(3, 5))


@functools.cache
def of_case(case):
    """Its Jacobian [N, O, P]."""
    f, params, x, _ = case.make("float64")
    return oracle.jacobian(f, params, x, forward=case.forward)


def by_jacobian(jacobian, signs):
    """The traced kernels [N, N, k] of single projections."""
    rows = np.einsum("nop,oc->ncp", jacobian, signs)
    return np.einsum("ncp,mcp->nmc", rows, rows)


@pytest.mark.parametrize("implementation", ["structured", "jacobian_contraction"])
@pytest.mark.parametrize("other", [False, True])
def test_directions_and_functions_are_other_networks(implementation, other):
    params, x1, x2 = example(3)
    x2 = x2 if other else None
    directions = np.random.default_rng(1).normal(size=(5, 2))
    options = {"implementation": implementation}

    def flat(params, x):
        y = f(params, x)
        return jnp.concatenate([y["a"], y["b"]], axis=1) @ directions

    expected = ntk(flat, params, x1, x2, **options)
    assert expected.shape == (4, 2, 3 if other else 4, 2)
    found = ntk(f, params, x1, x2, outputs=directions, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)

    def loss(y):
        return jax.nn.logsumexp(y["a"], axis=1) - y["b"].sum(axis=1)

    expected = ntk(lambda params, x: loss(f(params, x)), params, x1, x2, **options)
    found = ntk(f, params, x1, x2, outputs=loss, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    assert certify(found, f, params, x1, x2, outputs=loss).holds


@FIVE
def test_the_mean_over_seeds_is_the_traced_kernel(case):
    """And one kernel is that of its signs; the rest of 2000 seeds is NumPy's."""
    f, params, x, _ = case.make("float64")
    jacobian = of_case(case)
    o, k = jacobian.shape[1], min(2, jacobian.shape[1] - 1)
    found = ntk(f, params, x, outputs=Projections(k, 7))
    expected = by_jacobian(jacobian, np.asarray(Projections(k, 7).signs(o))).mean(axis=2)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())

    of_seed = jax.jit(jax.vmap(lambda key: jax.random.rademacher(key, (o, k), jnp.int8)))
    signs = np.asarray(of_seed(jax.vmap(jax.random.key)(np.arange(2000))))
    np.testing.assert_array_equal(signs[7], Projections(k, 7).signs(o))
    all_signs = signs.transpose(1, 0, 2).reshape(o, -1)
    each = by_jacobian(jacobian, all_signs)
    trace = np.einsum("nop,mop->nm", jacobian, jacobian)
    error = each.std(axis=2) / np.sqrt(each.shape[2])
    assert np.all(np.abs(each.mean(axis=2) - trace) <= 4 * error + 1e-9 * np.abs(trace).max())


def test_stated_errors_cover_the_true_ones():
    params, x, _ = example()
    jacobian = oracle.jacobian(wide, params, x, forward=True)
    trace = np.einsum("nop,mop->nm", jacobian, jacobian)
    largest = np.linalg.eigvalsh(trace)[-1]
    covered = {"entries": [], "trace": [], "lambda_max": []}
    for seed in range(60):
        found = estimate_trace_kernel(wide, params, x, k=16, seed=seed)
        assert not found.is_exact
        upper = np.triu_indices(4)
        covered["entries"].append(np.abs(found.kernel - trace)[upper] < 2.13 * found.errors[upper])
        covered["trace"].append(abs(found.trace - np.trace(trace)) < 2.13 * found.trace_error)
        off = abs(found.lambda_max - largest)
        covered["lambda_max"].append(off < 2.13 * found.lambda_max_error)
    shares = {name: np.mean(values) for name, values in covered.items()}
    assert min(shares.values()) > 0.88, shares
    assert shares["entries"] < 0.99, shares


def test_an_estimate_is_the_mean_of_its_projections():
    params, x1, x2 = example()
    found = estimate_trace_kernel(wide, params, x1, x2, k=8, seed=3)
    expected = ntk(wide, params, x1, x2, outputs=Projections(8, 3))
    np.testing.assert_allclose(found.kernel, expected, rtol=1e-10, atol=1e-8)
    assert found.errors.shape == (4, 3)
    assert np.isnan([found.trace, found.lambda_max]).all()


@pytest.mark.parametrize("k", [40, 64])
def test_of_no_more_outputs_than_projections_it_is_exact(k):
    params, x, _ = example()
    exact = ntk(wide, params, x, outputs="trace")
    np.testing.assert_allclose(ntk(wide, params, x, outputs=Projections(k)), exact, rtol=1e-12)
    found = estimate_trace_kernel(wide, params, x, k=k)
    assert found.is_exact
    assert found.errors.max() == found.trace_error == found.lambda_max_error == 0
    np.testing.assert_allclose(found.lambda_max, np.linalg.eigvalsh(exact)[-1], rtol=1e-10)


def test_a_backward_pass_for_each_projection_alone():
    params, x, _ = example(5000)
    (of_all, of_some) = (
        ntk_train.explain(wide, params, x, outputs=outputs).costs["structured"].operations
        for outputs in ("trace", Projections(4))
    )
    assert of_some < of_all / 100


def test_wherever_outputs_are_named(tmp_path):
    params, x, _ = example()
    outputs = Projections(4, 1)
    expected = ntk(wide, params, x, outputs=outputs)
    assert certify(expected, wide, params, x, outputs=outputs).holds
    assert not certify(1.01 * expected, wide, params, x, outputs=outputs).holds
    np.testing.assert_allclose(ntk(wide, params, x, outputs=outputs, check=True), expected)
    stored = ntk_to(tmp_path, wide, params, x, outputs=outputs, tile=3, progress=False)
    np.testing.assert_allclose(stored, expected, rtol=1e-10, atol=1e-10)
    hook = NTKHook(wide, x, outputs=outputs, every_steps=1)
    assert hook(0, params=params), hook.failures
    np.testing.assert_allclose(hook.latest.kernel, expected, rtol=1e-10)
    assert hook.convention.outputs == "trace by 4 random projections (seed 1)"
    assert hook.latest.diagnostics.scalars()["lambda_max"] == pytest.approx(
        np.linalg.eigvalsh(expected)[-1]
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Projections(0), r"Projections.k=0; expected"),
        (lambda: Projections(1.5), r"Projections.k=1.5"),
        (lambda: Projections(2, -1), r"Projections.seed=-1"),
        (lambda: ntk(wide, *example()[:2], outputs=np.ones((3, 2))), r"must be \[40, k\]"),
        (lambda: ntk(wide, *example()[:2], outputs=np.ones(3)), "chosen logits must be integers"),
        (lambda: estimate_trace_kernel(wide, *example()[:2], k=1), "k=1; expected projections"),
        (lambda: NTKHook(wide, example()[1], outputs=np.ones((40, 2)), every_steps=1), "Give it"),
    ],
)
def test_what_is_refused(make, said, without_type_checks):
    with pytest.raises((KernelInputError, ntk_train.DtypeError), match=said):
        make()
