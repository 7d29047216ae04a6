"""What is wrong with the arguments is said: the name, what came, what was expected, the remedy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import DtypeError, KernelInputError, explain, ntk
from tests import oracle

PARAMS = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
X = jnp.arange(12.0).reshape(4, 3) / 10


def f(params, x):
    return jnp.tanh(x @ params["w"] + params["b"])


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"params": {}}, KernelInputError, "params has no leaf to differentiate"),
        ({"params": {"w": jnp.arange(3)}}, KernelInputError, "none is floating point"),
        ({"param_filter": lambda path: False}, KernelInputError, "param_filter refused them all"),
        ({"params": {"w": jnp.ones(3) * 1j}}, DtypeError, r"params\['w'\] is complex128"),
        (
            {"params": {"params": PARAMS, "batch_stats": X}},
            KernelInputError,
            r"variables\['params'\]",
        ),
        ({"x1": 3.0}, KernelInputError, "x1 is 3.0; expected arrays"),
        ({"x1": {"a": X, "b": X[:2]}}, KernelInputError, "x1 has leaves of shapes"),
        ({"x2": jnp.ones(())}, KernelInputError, "x2 has leaves of shapes"),
        ({"outputs": "traced"}, KernelInputError, "outputs='traced' is none of"),
        ({"outputs": "chosen"}, KernelInputError, "is none of"),
        ({"outputs": jnp.ones(4)}, DtypeError, "must be integers"),
        ({"outputs": jnp.zeros(3, int)}, KernelInputError, r"shape \(3,\); expected \(4,\)"),
        ({"outputs": [0, 1, 2, 0]}, KernelInputError, "logits 0 to 2; f has 2"),
        ({"outputs": -1}, KernelInputError, "numbered from 0 to 1"),
        ({"outputs": jnp.zeros(4, int), "x2": X}, KernelInputError, "pass a pair of arrays"),
        ({"outputs": (0, 1, 0), "x2": X}, KernelInputError, "outputs has 3 entries"),
        ({"outputs": (0, 1)}, KernelInputError, "a pair but there is no x2"),
        ({"implementation": "fast"}, KernelInputError, "implementation='fast' is none of"),
        ({"precision": "exact"}, KernelInputError, "precision='exact'"),
        ({"f": lambda p, x: x @ p["w"] * 1j}, DtypeError, "f returned complex128"),
        ({"f": lambda p, x: (x @ p["w"]).argmax(1)}, DtypeError, "Return logits"),
        ({"f": lambda p, x: (x @ p["w"]).sum()}, KernelInputError, r"return it \[None\]"),
        ({"f": lambda p, x: {}}, KernelInputError, "f returned no array"),
        ({"f": lambda p, x: (x @ p["w"]).T}, KernelInputError, "2 rows for one example of x1"),
        (
            {"f": lambda p, x: x * p["w"].sum(), "x2": X[:, :2], "outputs": "trace"},
            KernelInputError,
            "as many outputs",
        ),
    ],
)
def test_wrong_arguments(changes, error, match):
    arguments = {"f": f, "params": PARAMS, "x1": X} | changes
    with pytest.raises(error, match=match):
        ntk(**arguments)


def test_one_integer_chooses_for_all_examples_of_both_sides():
    full = ntk(f, PARAMS, X, X[:2])
    np.testing.assert_allclose(ntk(f, PARAMS, X, X[:2], outputs=1), full[:, 1, :, 1], rtol=1e-12)


def test_chosen_logits_may_be_traced():
    labels = jnp.array([0, 1, 1, 0])
    got = jax.jit(lambda labels: ntk(f, PARAMS, X, outputs=labels))(labels)
    np.testing.assert_allclose(got, ntk(f, PARAMS, X, outputs=labels), rtol=1e-12)


def test_traced_logits_out_of_range_give_nan_and_not_some_other_logit():
    got = jax.jit(lambda labels: ntk(f, PARAMS, X, outputs=labels))(jnp.array([0, 2, 1, -1]))
    assert np.isfinite(got[np.ix_([0, 2], [0, 2])]).all()
    assert np.isnan(got[1]).all()
    assert np.isnan(got[3]).all()


def test_filter_splits_the_kernel_into_parts():
    parts = [
        ntk(f, PARAMS, X, param_filter=lambda path, name=name: path == name) for name in PARAMS
    ]
    np.testing.assert_allclose(sum(parts), ntk(f, PARAMS, X), rtol=1e-12)


def test_what_is_no_array_in_params_is_held_constant():
    params = PARAMS | {"activation": jnp.sin, "name": "net", "key": jax.random.key(0)}
    got = ntk(lambda p, x: p["activation"](f(p, x)), params, X)
    np.testing.assert_allclose(got, ntk(lambda p, x: jnp.sin(f(p, x)), PARAMS, X), rtol=1e-12)


@pytest.mark.parametrize("batched", [True, False])
def test_no_examples_give_an_empty_kernel(batched):
    for implementation in ("structured", "jacobian_contraction", "ntk_vector_products"):
        got = ntk(f, PARAMS, X[:0], X, batched=batched, implementation=implementation)
        assert got.shape == (0, 2, 4, 2)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    "implementation", ["structured", "jacobian_contraction", "ntk_vector_products"]
)
def test_kernels_of_no_outputs_and_of_no_examples_on_one_side(implementation, batched):
    of = {"full": "nomp->nomp", "trace": "nomo->nm", "diagonal": "nomo->nmo", "sum": "nomp->nm"}
    nothing = lambda params, x: f(params, x)[:, :0]
    options = {"batched": batched, "implementation": implementation}

    @functools.partial(jax.jit, compiler_options=oracle.QUICK)
    def kernels(x1, x2):
        empty = [ntk(nothing, PARAMS, x1, outputs=outputs, **options) for outputs in of]
        return empty, ntk(f, PARAMS, x1, x2, **options)

    empty, one_side = kernels(X, X[:0])
    full = oracle.kernel(nothing, PARAMS, X)
    for subscripts, got in zip(of.values(), empty):
        np.testing.assert_array_equal(got, np.einsum(subscripts, full), strict=True)
    assert one_side.shape == (4, 2, 0, 2)


def test_precision_reaches_the_products_inside_f():
    seen = []

    def spy(params, x):
        seen.append(jax.config.jax_default_matmul_precision)
        return f(params, x)

    ntk(spy, PARAMS, X, precision="tensorfloat32")
    assert set(seen) == {"tensorfloat32"}
    seen.clear()
    ntk(spy, PARAMS, X, precision=None)
    assert set(seen) == {None}


@pytest.mark.parametrize(
    ("precision", "used"), [("tensorfloat32", "HIGH,"), (None, "HIGHEST,"), ("highest", "HIGHEST,")]
)
def test_precision_of_the_product_of_jacobians(precision, used):
    kernel = functools.partial(ntk, f, precision=precision, implementation="jacobian_contraction")
    assert f"Precision.{used}" in str(jax.make_jaxpr(kernel)(PARAMS, X))


def scaled(params, x, model_state):
    return f(params, x) * model_state["scale"] + model_state["count"]


def test_a_model_state_is_the_third_argument_and_held_constant():
    state = {"scale": jnp.array([2.0, 3.0]), "count": np.int32(1)}
    expected = ntk(lambda p, x: scaled(p, x, state), PARAMS, X)
    for implementation in ("structured", "ntk_vector_products"):
        got = ntk(scaled, PARAMS, X, model_state=state, implementation=implementation)
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    jitted = jax.jit(lambda state: ntk(scaled, PARAMS, X, batched=False, model_state=state))
    np.testing.assert_allclose(jitted(state), expected, rtol=1e-12)
    assert "structured" in str(explain(scaled, PARAMS, X, model_state=state))
    shapes = jax.eval_shape(lambda: state)
    assert "structured" in str(explain(scaled, PARAMS, X, model_state=shapes))
    np.testing.assert_allclose(ntk(f, PARAMS, X, model_state={}), ntk(f, PARAMS, X), rtol=1e-12)
