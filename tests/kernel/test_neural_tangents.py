"""The drop-in against kernels that neural-tangents 0.6.5 itself computed."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_train
from ntk_train import (
    DtypeError,
    KernelInputError,
    NtkImplementation,
    empirical_ntk_fn,
    empirical_ntk_vp_fn,
)
from tests import oracle
from tests.kernel import neural_tangents_cases as cases
from tests.oracle import QUICK

KEPT = np.load(pathlib.Path(__file__).parent / "neural_tangents_0_6_5.npz")


@pytest.mark.parametrize("implementation", [1, 2, 3])
@pytest.mark.parametrize(("axes", "vmap_axes", "other"), cases.COMBINATIONS)
def test_equals_the_kernels_of_neural_tangents(axes, vmap_axes, other, implementation):
    x1, x2, params, kwargs = cases.arguments(vmap_axes, other)
    kernel_fn = empirical_ntk_fn(
        cases.network, *cases.AXES[axes], cases.VMAP_AXES[vmap_axes], implementation
    )
    want = KEPT[f"{axes}-{vmap_axes}-{'x2' if other else 'x1'}"]
    got = jax.jit(kernel_fn, compiler_options=QUICK)(x1, x2, params, **kwargs)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=1e-12 * np.abs(want).max())


def test_auto_and_enum():
    x1, x2, params, _ = cases.arguments("front", True)
    auto = empirical_ntk_fn(cases.network, vmap_axes=0, implementation=NtkImplementation.AUTO)
    want = KEPT["default-front-x2"]
    np.testing.assert_allclose(jax.jit(auto)(x1, x2, params), want, atol=1e-12)
    assert [int(member) for member in NtkImplementation] == [0, 1, 2, 3]


def test_trace_is_the_mean_of_ours():
    x1, _, params, _ = cases.arguments("front", False)
    mean = empirical_ntk_fn(cases.network, (1, 2, 3), vmap_axes=0)(x1, None, params)
    ours = ntk_train.ntk(cases.network, params, x1, outputs="trace")
    np.testing.assert_allclose(18 * mean, ours, rtol=1e-12)


def test_leaves_of_an_output_have_their_kernels_apart():
    f = lambda params, x: {"a": jnp.sin(x @ params), "b": [(x @ params).sum(1)]}
    params, x = jnp.arange(6.0).reshape(3, 2), jnp.ones((4, 3))
    got = empirical_ntk_fn(f, trace_axes=(), vmap_axes=0)(x, None, params)
    assert got["a"].shape == (4, 4, 2, 2)
    np.testing.assert_allclose(got["b"][0], np.full((4, 4), 6.0))


def test_other_positions_of_the_axis_of_examples():
    def f(params, x):  # x [3, N] -> [2, N]
        return jnp.tanh(params @ x["x"])

    x, params = {"x": jnp.arange(12.0).reshape(3, 4) / 10}, jnp.arange(6.0).reshape(2, 3) / 5
    whole = empirical_ntk_fn(f, trace_axes=(0,))(x, None, params)
    mapped = empirical_ntk_fn(f, trace_axes=(0,), vmap_axes=-1)(x, None, params)
    assert mapped.shape == (4, 4)
    np.testing.assert_allclose(mapped, whole, rtol=1e-12)


@pytest.mark.parametrize("implementation", [1, 2, 3])
def test_random_keys_are_folded_and_pairs_are_split(implementation):
    def f(params, x, rng, on):
        keep = jax.random.bernoulli(rng, 0.5, x.shape)
        return jnp.where(keep, x, 0) @ params if on else x @ params

    params, x = jnp.ones((30, 1)), jnp.ones((2, 30))
    kernel_fn = empirical_ntk_fn(f, implementation=implementation)
    key = jax.random.key(0)
    same = kernel_fn(x, None, params, rng=key, on=True)
    np.testing.assert_allclose(kernel_fn(x, x, params, rng=key, on=True), same)
    other = kernel_fn(x, 2 * x, params, rng=key, on=True)
    assert not np.allclose(other, 2 * same)
    # The second side without dropout: 2 x the number of entries that the first side kept.
    split = kernel_fn(x, 2 * x, params, rng=key, on=(True, False))
    keys = kernel_fn(x, 2 * x, params, rng=(key, jax.random.key(1)), on=True)
    np.testing.assert_allclose(np.diag(split), 2 * np.diag(same))
    assert not np.allclose(keys, split)


def test_vector_products_multiply_by_the_kernel():
    x1, x2, params, _ = cases.arguments("front", True)
    kernel = ntk_train.ntk(cases.network, params, x1, x2)  # [N, O, M, O]
    v = jnp.cos(jnp.arange(36.0)).reshape(2, 18)
    product = empirical_ntk_vp_fn(cases.network, x1, x2, params)(v.reshape(2, 3, 3, 2))
    want = np.einsum("nomp,mp->no", kernel, v)
    np.testing.assert_allclose(product.reshape(2, 18), want, rtol=1e-10)
    alone = empirical_ntk_vp_fn(cases.network, x1, None, params)(v.reshape(2, 3, 3, 2))
    want = np.einsum("nomp,mp->no", ntk_train.ntk(cases.network, params, x1), v)
    np.testing.assert_allclose(alone.reshape(2, 18), want, rtol=1e-10)


def test_wrong_axes_say_which():
    x1, _, params, _ = cases.arguments("front", False)
    with pytest.raises(KernelInputError, match=r"trace_axes=.*4 axes"):
        empirical_ntk_fn(cases.network, trace_axes=(7,))(x1, None, params)
    with pytest.raises(KernelInputError, match="share an axis"):
        empirical_ntk_fn(cases.network, (1,), (-3,))(x1, None, params)
    with pytest.raises(KernelInputError, match="axis 0 is traced"):
        empirical_ntk_fn(cases.network, (0,))(x1, x1[:1], params)
    with pytest.raises(KernelInputError, match="does not fit"):
        empirical_ntk_fn(cases.network, vmap_axes=((0, 0), 0, {}))(x1, None, params)
    with pytest.raises(KernelInputError, match="not for each of the outputs"):
        empirical_ntk_fn(cases.network, vmap_axes=(0, None, {}))(x1, None, params)
    with pytest.raises(ValueError, match="9"):
        empirical_ntk_fn(cases.network, implementation=9)


@pytest.mark.parametrize("implementation", [0, 1, 2, 3])
def test_outputs_that_are_not_real_are_refused(implementation):
    for f in (lambda p, x: (x @ p) * 1j, lambda p, x: (x @ p).argmax(axis=1)):
        with pytest.raises(DtypeError, match="must be real floating point"):
            empirical_ntk_fn(f, implementation=implementation)(
                jnp.ones((2, 3)), None, jnp.ones((3, 2))
            )


@pytest.mark.parametrize("implementation", [0, 1, 2, 3])
def test_sides_that_use_a_weight_in_different_ways(implementation):
    def f(params, x, part):
        return jnp.sin(x @ (params[part] if part < 2 else params[0].T))

    params, x = jnp.cos(jnp.arange(18.0)).reshape(2, 3, 3), jnp.cos(jnp.arange(6.0)).reshape(2, 3)
    kernel_fn = empirical_ntk_fn(f, (), (), 0, implementation)
    apart = kernel_fn(x, x + 1, params, part=(0, 1))
    np.testing.assert_array_equal(apart, np.zeros((2, 2, 3, 3)))
    turned = kernel_fn(x, x + 1, params, part=(0, 2))
    j1, j2 = (
        jax.jacrev(lambda p, x=x, part=part: f(p, x, part))(params).reshape(2, 3, 18)
        for x, part in ((x, 0), (x + 1, 2))
    )
    np.testing.assert_allclose(turned, np.einsum("now,mpw->nmop", j1, j2), rtol=1e-10)


PARAMS = {"w": jnp.cos(jnp.arange(6.0)).reshape(3, 2), "unused": None}
X1, X2 = jnp.sin(jnp.arange(12.0)).reshape(4, 3), jnp.cos(jnp.arange(6.0)).reshape(2, 3)


def network(params, x):
    return jnp.tanh(x @ params["w"])


def zipped(f, x1=X1, x2=None):
    """The oracle's kernel [N, M, O, O] of outputs [N, O], its axes as the drop-in has them."""
    return oracle.kernel(f, PARAMS, x1, x2).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("vmap_axes", [None, 1])
@pytest.mark.parametrize("implementation", [0, 1, 2, 3])
def test_none_stands_for_what_is_absent(implementation, vmap_axes):
    """In parameters, inputs, outputs, keyword arguments and axes."""

    def f(params, x, rng, scale):
        (inputs, absent), none = x
        assert absent is none is rng is scale is inputs["none"] is None
        return {"y": network(params, inputs["x"].T), "no": None}

    def inputs(x):
        return ({"x": x, "none": None}, None), None

    if vmap_axes is not None:  # an axis for what is absent, or None
        vmap_axes = ((({"x": 1, "none": None}, 0), None), {"y": 0, "no": 3}, {"rng": 0})

    @functools.partial(jax.jit, compiler_options=QUICK)
    def results(x1, x2):
        absent = {"rng": None, "scale": (None, None)}
        v = {"y": jnp.ones((len(X1 if x2 is None else X2), 2)), "no": None}
        kernel_fn = empirical_ntk_fn(f, (), (), vmap_axes, implementation)
        other = inputs(None if x2 is None else x2.T)
        kernel = kernel_fn(inputs(x1.T), other, PARAMS, **absent)
        return kernel, empirical_ntk_vp_fn(f, inputs(x1.T), other, PARAMS, **absent)(v)

    for x2 in (None, X2):
        want = zipped(network, X1, x2)
        kernel, of_ones = results(X1, x2)
        assert kernel["no"] is of_ones["no"] is None
        np.testing.assert_allclose(kernel["y"], want, atol=1e-12)
        np.testing.assert_allclose(of_ones["y"], want.sum((1, 3)), atol=1e-12)


@pytest.mark.parametrize("implementation", [0, 1, 2, 3])
def test_outputs_that_are_numbers(implementation):
    """They depend on nothing, and so have kernel zero; arrays beside them are as they are."""

    def f(params, x):
        return [1.5, (network(params, x), np.float64(2)), jnp.sum(params["w"] ** 3)]

    kernel_fn = jax.jit(empirical_ntk_fn(f, (), (), None, implementation), compiler_options=QUICK)
    number, (y, scalar), total = kernel_fn(X1, X2, PARAMS)
    assert number.shape == scalar.shape == ()
    assert number == scalar == 0
    np.testing.assert_allclose(y, zipped(network, X1, X2), atol=1e-12)
    np.testing.assert_allclose(total, 9 * jnp.sum(PARAMS["w"] ** 4), rtol=1e-12)


def test_vector_products_with_outputs_that_are_numbers():
    v = jnp.cos(jnp.arange(8.0)).reshape(4, 2)
    f = lambda params, x: (1.5, network(params, x))
    number, y = empirical_ntk_vp_fn(f, X1, None, PARAMS)((1.0, v))
    assert number == 0
    np.testing.assert_allclose(y, np.einsum("nmop,mp->no", zipped(network), v), atol=1e-12)


@pytest.mark.parametrize("vmap_axes", [None, 0])
@pytest.mark.parametrize("implementation", [0, 1, 2, 3])
def test_a_function_that_uses_no_parameter_has_kernel_zero(implementation, vmap_axes):
    f = lambda _, x: {"of_x": 2 * x, "fixed": np.ones((len(x), 5))}
    kernel_fn = jax.jit(
        empirical_ntk_fn(f, (), (), vmap_axes, implementation), compiler_options=QUICK
    )
    for x2, m in ((None, 4), (X2, 2)):
        kernel = kernel_fn(X1, x2, PARAMS)
        np.testing.assert_array_equal(kernel["of_x"], np.zeros((4, m, 3, 3)))
        np.testing.assert_array_equal(kernel["fixed"], np.zeros((4, m, 5, 5)))


def test_vector_products_of_a_function_that_uses_no_parameter():
    got = empirical_ntk_vp_fn(lambda _, x: 2 * x, X1, X2, PARAMS)(X2)
    np.testing.assert_array_equal(got, np.zeros((4, 3)))


@pytest.mark.parametrize("vmap_axes", [None, 0])
@pytest.mark.parametrize("implementation", [0, 1, 2, 3])
def test_empty_outputs(implementation, vmap_axes):
    """Kernels without entries, sums over nothing, which are zero, and means of nothing, NaN."""
    no_logits, none = lambda *arguments: network(*arguments)[:, :0], X1[:0]
    cases = [  # with trace_axes and diagonal_axes
        (no_logits, X1, X2, [((), ()), ((-1,), ()), ((), (1,))]),
        (network, none, X2, [((), ())]),
        (network, none, None, [((0,), ()), ((), (0,))]),
    ]
    for f, x1, x2, axes in cases:

        @functools.partial(jax.jit, compiler_options=QUICK)
        def kernels(x1, x2, f=f, axes=axes):
            return [
                empirical_ntk_fn(f, *pair, vmap_axes, implementation)(x1, x2, PARAMS)
                for pair in axes
            ]

        full = zipped(f, x1, x2)
        for pair, kernel in zip(axes, kernels(x1, x2)):
            want = _reduced(full, *pair)
            assert kernel.shape == want.shape
            np.testing.assert_allclose(kernel, want)


def _reduced(kernel, trace_axes, diagonal_axes):
    """Mean over a pair of axes of a kernel [N, M, O, O], or its diagonal."""
    for axis in trace_axes:
        subscripts = "nnop->op" if axis == 0 else "nmoo->nm"
        with np.errstate(invalid="ignore"):
            kernel = np.einsum(subscripts, kernel) / kernel.shape[axis]
    for axis in diagonal_axes:
        kernel = np.einsum("nnop->nop" if axis == 0 else "nmoo->nmo", kernel)
    return kernel


def test_vector_products_of_empty_outputs():
    got = empirical_ntk_vp_fn(lambda *a: network(*a)[:, :0], X1, X2, PARAMS)(jnp.zeros((2, 0)))
    assert got.shape == (4, 0)
    got = empirical_ntk_vp_fn(network, X1, X2[:0], PARAMS)(jnp.zeros((0, 2)))
    np.testing.assert_array_equal(got, np.zeros((4, 2)))


def test_statistics_among_the_parameters_are_refused_with_a_remedy_that_there_is():
    variables = {"params": PARAMS, "batch_stats": {"mean": jnp.zeros(3)}}
    for kernel_of in (
        lambda: empirical_ntk_fn(network)(X1, None, variables),
        lambda: empirical_ntk_vp_fn(network, X1, None, variables),
    ):
        with pytest.raises(KernelInputError, match=r"\['params'\] and close f over") as error:
            kernel_of()
        assert "param_filter" not in str(error.value)
    with pytest.raises(KernelInputError, match="param_filter"):
        ntk_train.ntk(network, variables, X1)


def test_outputs_without_one_row_for_each_example_say_so():
    with pytest.raises(KernelInputError, match=r"returned \(3, 2\) for one example, whose axis 0"):
        empirical_ntk_fn(lambda params, x: params["w"], vmap_axes=0)(X1, None, PARAMS)
