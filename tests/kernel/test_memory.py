"""What a kernel takes falls with its budget: by what XLA says, not by the plan's own count."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import explain, ntk
from ntk_train.program.linear import linear_program
from ntk_train.program.liveness import pass_of
from tests import oracle
from tests.bank import BANK
from tests.kernel.test_laws import check_every_mode

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="of the plan for a CPU")

TIMES = 4  # as much as a budget, a kernel, or one example and output must take, may be taken
GROWTH, SLACK = 1.25, 4096  # by which less memory may take more


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, "float32")


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().memory_analysis()


def of_kernel(f, params, x, **options):
    return compiled(functools.partial(ntk, f, implementation="structured", **options), params, x)


def temporary(f, params, x, **options):
    return of_kernel(f, params, x, **options).temp_size_in_bytes


def per_pixel(params, x):
    layout = ("NHWC", "HWIO", "NHWC")
    for w, b in params:
        x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)
        x = jnp.tanh(x + b)
    return x


def convolutions(*channels):
    pairs = itertools.pairwise(channels)
    return [(shape(3, 3, *pair), shape(pair[1])) for pair in pairs]


tanh_of_product = lambda w, x: jnp.tanh(x @ w)
linear = lambda w, x: x @ w


@pytest.mark.parametrize(
    ("f", "params", "n", "outputs", "budget"),
    [
        (tanh_of_product, shape(3, 3), 2, "trace", 1e8),  # took 9.7 GB
        (tanh_of_product, shape(3, 3), 2, "diagonal", 1e8),
        (linear, shape(3, 3), 2, "trace", 1e8),
        (per_pixel, convolutions(3, 16, 16, 3), 4, "trace", 3e8),  # took 122 GB
    ],
)
def test_outputs_at_each_of_many_pixels(f, params, n, outputs, budget):
    x = shape(n, 128, 128, 3)
    assert temporary(f, params, x, outputs=outputs, memory_budget=budget) < budget


def test_a_trace_of_a_last_layer_forms_no_identity():
    params, x = shape(4, 20_000), shape(3, 4)
    (part,) = explain(linear, params, x, outputs="trace").plan.parts
    assert part.way.name == "identity"
    assert temporary(linear, params, x, outputs="trace") < 1e6


@pytest.mark.parametrize("outputs", ["trace", "diagonal", "full"])
def test_without_a_budget_as_with_one(outputs):
    params, x = jnp.cos(jnp.arange(9.0)).reshape(3, 3), jnp.sin(jnp.arange(96.0))
    x = x.reshape(2, 4, 4, 3)
    full = oracle.kernel(lambda w, x: tanh_of_product(w, x).reshape(2, -1), params, x)
    want = {
        "full": full,
        "trace": np.einsum("nomo->nm", full),
        "diagonal": np.einsum("nomo->nmo", full),
    }[outputs]
    for budget in (None, 1e4, 1.0):
        kernel = functools.partial(ntk, tanh_of_product, outputs=outputs, memory_budget=budget)
        np.testing.assert_allclose(jax.jit(kernel)(params, x), want, atol=1e-12 * want.max())


@pytest.mark.parametrize("batched", [True, False], ids=["", "coupled"])
def test_references_that_take_more_are_not_chosen_within_a_budget(batched):
    f = lambda w, x: (x @ w) @ w.T  # as one matrix of all parameters by its transpose
    explained = functools.partial(explain, f, shape(64, 64), shape(2, 64), batched=batched)
    assert explained().implementation == "ntk_vector_products"
    assert explained(memory_budget=1e5).implementation == "structured"


def of_one(f, params, x):
    """What the derivative of one output of one example takes, in plain JAX."""

    def output(params):
        return sum(leaf.ravel()[0] for leaf in jax.tree.leaves(f(params, x)))

    analysis = compiled(lambda params: jax.grad(output, allow_int=True)(params), params)
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


QUICK = (("integer_inputs", "trace"), ("convolution_in_groups", "diagonal"))

over_bank = pytest.mark.parametrize(
    ("case", "outputs"),
    [
        pytest.param(
            *(case, outputs),
            marks=[pytest.mark.heavy] * ((case.name, outputs) not in QUICK),
            id=f"{case.name}-{outputs}",
        )
        for case in BANK
        if not case.gaps
        for outputs in ("trace", "diagonal", "sum")
    ],
)


@over_bank
def test_bytes_fall_with_the_budget(case, outputs):
    f, params, x, _ = case.make("float32")
    least = of_one(f, params, jax.tree.map(lambda leaf: leaf[:1], x) if case.batched else x)
    if case.batched:
        x = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * 16), x)
    of_budget = functools.partial(of_kernel, f, params, x, outputs=outputs, batched=case.batched)
    whole = of_budget()
    taken, least = [whole.temp_size_in_bytes], max(least, whole.output_size_in_bytes)
    for part in (4, 16):
        budget = max(taken[0] / part, 1)
        taken.append(of_budget(memory_budget=budget).temp_size_in_bytes)
        assert taken[-1] < TIMES * max(budget, least) + SLACK
        assert taken[-1] < GROWTH * taken[-2] + SLACK


LEAST = ("weight_used_twice", "batch_norm_in_train_mode")


@pytest.mark.parametrize(
    ("case", "other"),
    [
        pytest.param(
            *(case, other),
            marks=[pytest.mark.heavy] * (not other or case.name not in LEAST),
            id=f"{case.name}-{'other' if other else 'same'}_inputs",
        )
        for case in BANK
        if not case.gaps
        for other in (False, True)
    ],
)
def test_within_hardly_any_memory_every_mode_equals_the_oracle(case, other):
    kernel = functools.partial(ntk, implementation="structured", memory_budget=1.0)
    check_every_mode(case, "float64", other, kernel)


def counted(f, params, x):
    return pass_of(linear_program(f, params, x))


def test_the_numbers_of_a_pass():
    """Two layers of 5 and 4: what tanh's derivative needs, and what is there around a product."""
    f = lambda params, x: jnp.tanh(jnp.tanh(x @ params[0]) @ params[1])
    found = counted(f, [jnp.ones((7, 5)), jnp.ones((5, 4))], jnp.ones(7))
    assert found.activations >= 7 + 5 + 4  # both inputs, the derivatives of tanh
    assert 5 + 4 <= found.cotangents <= 4 * 5


def test_what_waits_on_the_way_back_is_counted():
    """The cotangent of a skipped block is there while that of the block is made."""
    block = lambda w, x: jnp.tanh(x @ w[0]) @ w[1]
    params, x = [jnp.ones((6, 60)), jnp.ones((60, 6)), jnp.ones(6)], jnp.ones(6)
    alone = counted(lambda w, x: block(w, x * w[2]), params, x)
    skipped = counted(lambda w, x: x * w[2] + block(w, x * w[2]), params, x)
    assert skipped.cotangents == alone.cotangents + 6


def test_a_pass_within_a_scan():
    def f(ws, x):
        step = lambda x, w: (jnp.tanh(jnp.tanh(x @ w) @ w.T), None)
        return jax.lax.scan(step, x, ws)[0]

    found = lambda n: counted(lambda p, x: f(p[0], x), [jnp.ones((n, 3, 50))], jnp.ones(3))
    one, many = found(1), found(8)
    assert one.cotangents == many.cotangents >= 2 * 50
    assert many.activations > 6 * one.activations


def test_layers_that_are_kept_as_factors_take_no_loop():
    """As the MLPs of a mixer, some of which are formed: their loop took several times as much."""

    def f(params, x):
        for up, down in params:
            x = x + jnp.tanh(jnp.tanh(x @ up) @ down)
        return x.mean(axis=1)[:, :10]

    params, x = [(shape(64, 256), shape(256, 64))] * 6, shape(2, 49, 64)
    plan = explain(f, params, x).plan
    assert {part.way.name for part in plan.parts} == {"jacobian", "half_gram"}
    references = compiled(
        functools.partial(ntk, f, implementation="jacobian_contraction"), params, x
    )
    assert temporary(f, params, x) <= 1.1 * references.temp_size_in_bytes
