"""Kernels do not depend on how many examples, outputs and entries are computed at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import KernelInputError, explain, ntk
from ntk_train.kernel.machine import MACHINES, Machine
from ntk_train.kernel.plan import Blocks, Choices
from tests import oracle
from tests.kernel.planned import kernel_of, plan_of

X = jax.random.normal(jax.random.key(0), (7, 4, 4, 2), "float64")


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, "float32")


def convolutional(params, x):
    layout = ("NHWC", "HWIO", "NHWC")
    for w, b in params["convolutions"]:
        x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)
        x = jnp.tanh(x + b)
    return x


def dense(params, x):
    for w in params[:-1]:
        x = jnp.maximum(x @ w, 0)
    return x @ params[-1]


def network(params, x):
    """Convolutions whose Jacobians are formed, a dense layer whose factors are kept, biases."""
    x = convolutional(params, x)
    x = jnp.tanh(x.reshape(len(x), -1) @ params["hidden"])
    return x @ params["last"] + params["bias"]


def params_of(outputs, pairs=1):
    keys = iter(jax.random.split(jax.random.key(1), 4 + 4 * pairs))
    normal = lambda *shape: jax.random.normal(next(keys), shape, "float64")
    return {
        "convolutions": [(normal(3, 3, a, b), normal(b)) for a, b in [(2, 3), (3, 2)] * pairs],
        "hidden": normal(32, 8),
        "last": normal(8, outputs),
        "bias": normal(outputs),
    }


SMALL = Machine(
    balance=30,
    block=1e9,
    memory=8e9,
    tile=10**9,
    copied_per_product=4096,
    is_accelerator=True,
    columns=1,
    stacked=20480,
)
ON_A_CPU = Choices(machine=MACHINES["cpu"])


def choose(blocks, **choices):
    """So many at once, and whatever else a planner is told."""
    return Choices(machine=SMALL, blocks=blocks, **choices)


STREAMED = [
    Blocks(7, 40, 3, streamed=True),
    Blocks(7, 40, None, columns=7, streamed=True),
]


@pytest.mark.parametrize("other", [False, True], ids=["same_inputs", "other_inputs"])
@pytest.mark.parametrize("outputs", [5, 40], ids=["whole", "cut_at_a_bottleneck"])
@pytest.mark.parametrize(
    "blocks",
    [
        Blocks(1, 1, 1),
        Blocks(2, 3, 2),
        Blocks(3, 4, None),
        Blocks(7, 7, None, 2),
        *STREAMED,
    ],
)
def test_every_block_size_gives_the_same_kernel(blocks, outputs, other):
    choices = choose(blocks)
    params, x2 = params_of(outputs), 2 * X[:3] if other else None
    want = oracle.kernel(network, params, X, x2)
    assert (plan_of(choices, network, params, X, x2).inner is not None) == (outputs == 40)
    kernel = jax.jit(functools.partial(kernel_of, choices, network))
    np.testing.assert_allclose(kernel(params, X, x2), want, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("other", [False, True], ids=["same_inputs", "other_inputs"])
@pytest.mark.parametrize("tile", [1, 3])
def test_a_large_kernel_with_a_cut_is_never_whole_twice(tile, other):
    choices = choose(Blocks(7, 40, tile))
    params, x2 = params_of(40), 2 * X[:3] if other else None
    want = oracle.kernel(network, params, X, x2)
    kernel = jax.jit(functools.partial(kernel_of, choices, network, per_layer=True))
    parts = kernel(params, X, x2)
    assert len(parts) > 2
    np.testing.assert_allclose(sum(parts.values()), want, atol=1e-12 * np.abs(want).max())


def sine_of(params, x):
    return jnp.sin(dense(params, x) * x.sum(1, keepdims=True))


SIZES = [(5, 64), (64, 64), (64, 4), (4, 40)]
CUT = [np.sin(np.arange(a * b) + a).reshape(a, b) / a**0.5 for a, b in SIZES]


@pytest.mark.parametrize("other", [False, True], ids=["same_inputs", "other_inputs"])
@pytest.mark.parametrize(("f", "depends"), [(dense, False), (sine_of, True)])
@pytest.mark.parametrize("tile", [None, 2])
def test_what_comes_after_a_cut_is_of_each_example(f, depends, tile, other):
    choices = choose(Blocks(3, 40, tile))
    x1 = np.cos(np.arange(15.0)).reshape(3, 5)
    x2 = 2 * x1[:2] if other else None
    plan = plan_of(choices, f, CUT, x1, x2)
    assert plan.inner is not None
    h = len(plan.problem.theta)
    assert [program.depends_on_x(h) for program in plan.programs] == [depends] * 2
    assert plan.inner.programs[0].depends_on_x(0)
    kernel = jax.jit(functools.partial(kernel_of, choices, f))(CUT, x1, x2)
    want = oracle.kernel(f, CUT, x1, x2)
    np.testing.assert_allclose(kernel, want, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("sizes", [(0, 0), (0, 2), (2, 0)])
def test_a_cut_without_examples(sizes):
    x1, x2 = (np.ones((size, 5)) for size in sizes)
    kernel = jax.jit(functools.partial(ntk, dense, implementation="structured"))(CUT, x1, x2)
    assert kernel.shape == (sizes[0], 40, sizes[1], 40)


@pytest.mark.parametrize("way", ["jacobian", "half_gram", "full_gram"])
@pytest.mark.parametrize("columns", [1, 3])
def test_every_way_in_columns(way, columns):
    choices = choose(Blocks(7, 5, None, columns), ways=[way])
    params = params_of(5)
    parts = plan_of(choices, network, params, X).all_parts
    assert {part.way.name for part in parts if part.sites[0]} == {way}
    want = oracle.kernel(network, params, X)
    found = jax.jit(functools.partial(kernel_of, choices, network))(params, X)
    np.testing.assert_allclose(found, want, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("streamed", [False, True])
def test_patches_in_pieces(streamed):
    choices = choose(Blocks(2, 5, None, streamed=streamed), pieces=True)
    params = params_of(5)
    ways = [part.way for part in plan_of(choices, network, params, X).parts]
    assert [way.pieces for way in ways if getattr(way, "pieces", 1) > 1] == [3, 3]
    want = oracle.kernel(network, params, X)
    found = jax.jit(functools.partial(kernel_of, choices, network))(params, X)
    np.testing.assert_allclose(found, want, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize(("outputs", "pieces"), [(1, 3), (16, 1)])
def test_patches_come_in_pieces_where_cotangents_are_few(outputs, pieces):
    params = {"convolutions": [(shape(3, 3, 16, 16), shape(16))] * 2}
    f = lambda params, x: convolutional(params, x).mean((1, 2))[:, :outputs]
    plan = plan_of(ON_A_CPU, f, params, shape(2, 32, 32, 16))
    convolutions = [part for part in plan.all_parts if part.way.sizes.a > 1]
    assert {part.way.pieces for part in convolutions} == {pieces}


@pytest.mark.parametrize("outputs", ["trace", "sum", "diagonal", 1])
def test_every_mode_in_blocks(outputs):
    want, found = (
        jax.jit(functools.partial(kernel_of, choose(blocks), network, outputs=outputs))(
            params_of(5), X
        )
        for blocks in (Blocks(7, 5, None), Blocks(2, 3, 2))
    )
    np.testing.assert_allclose(found, want, atol=1e-12 * np.abs(want).max())


def test_layers_in_blocks_with_a_cut():
    params, options = params_of(40), {"per_layer": lambda path: path.split("/")[0]}
    want = jax.jit(
        functools.partial(ntk, network, implementation="jacobian_contraction", **options)
    )(params, X)
    choices = choose(Blocks(2, 3, 2))
    got = jax.jit(functools.partial(kernel_of, choices, network, **options))(params, X)
    assert set(got) == set(params)
    for path, part in got.items():
        np.testing.assert_allclose(part, want[path], atol=1e-12 * np.abs(part).max())


def test_large_networks_are_computed_in_blocks():
    """The sizes that the plan itself takes, on shapes alone."""
    params = {
        "convolutions": [(shape(3, 3, 3, 64), shape(64)), (shape(3, 3, 64, 64), shape(64))],
        "hidden": shape(64 * 64 * 64, 256),
        "last": shape(256, 100),
        "bias": shape(100),
    }
    found = explain(network, params, shape(32, 64, 64, 3)).plan
    assert found.blocks.examples < 32
    assert found.blocks.tile is not None
    assert found.blocks.tile < 32


@pytest.mark.parametrize(
    ("width", "tile"), [(256, 2), (1024, None)], ids=["narrow_rows", "wide_rows"]
)
def test_blocks_of_a_kernel_that_is_larger_than_its_rows(width, tile):
    """Wide rows take more memory, all at once, than the Grams that blocks of the kernel spare."""
    params = [*[shape(width, width)] * 9, shape(width, 128)]
    blocks = plan_of(ON_A_CPU, dense, params, shape(8, width)).blocks
    assert blocks.tile == tile


@pytest.mark.parametrize(
    ("width", "n", "outputs", "columns"),
    [(256, 32, 16, 4), (256, 3, 64, 3), (64, 8, 16, 1), (256, 32, 1, 1), (1024, 8, 16, 1)],
    ids=["all", "few_examples", "narrow", "one_output", "wide"],
)
def test_grams_on_and_above_the_diagonal(width, n, outputs, columns):
    """Where the products spared take longer than it takes to start more of them."""
    params = [*[shape(width, width)] * 9, shape(width, outputs)]
    of = lambda *xs: plan_of(ON_A_CPU, dense, params, *xs).blocks
    assert of(shape(n, width)).columns == columns
    assert of(shape(n, width), shape(n, width)).columns == 1


@pytest.mark.parametrize(("n", "tile"), [(8, None), (32, 2)], ids=["in_a_cache", "large"])
def test_a_kernel_in_a_cache_is_pushed_through_as_a_whole(n, tile):
    params = [*[shape(64, 64)] * 9, shape(64, 128)]
    plan = plan_of(ON_A_CPU, dense, params, shape(n, 64))
    assert plan.inner is not None
    assert plan.blocks.tile == tile


@pytest.mark.parametrize(
    ("n", "outputs", "streamed"), [(2, 10, True), (16, 10, False), (2, 1, False)]
)
def test_layers_go_one_by_one_where_that_takes_less(n, outputs, streamed):
    """Many cotangents of few examples; patches of many examples go in blocks of these."""
    params = {"convolutions": [(shape(3, 3, 64, 64), shape(64))] * 5}
    f = lambda params, x: convolutional(params, x).mean((1, 2))[:, :outputs]
    plan = plan_of(ON_A_CPU, f, params, shape(n, 32, 32, 64))
    assert plan.blocks.streamed == streamed


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of the plan for a CPU")
def test_grams_of_all_layers_are_not_in_memory_at_once():
    """A layer more takes its activations, and no Gram that waits for cotangents [o, t, s]."""

    t, width, outputs = 64, 512, 64

    def temporary(depth):
        params = [*[shape(width, width)] * depth, shape(width, outputs)]
        f = lambda params, x: dense(params, x).mean(1)
        x = shape(2, t, width)
        assert "half_gram" in {part.way.name for part in explain(f, params, x).plan.all_parts}
        kernel = jax.jit(functools.partial(ntk, f, implementation="structured"))
        return kernel.lower(params, x).compile().memory_analysis().temp_size_in_bytes

    activations, gram = 4 * 2 * t * width, 4 * 2 * outputs * t * t
    assert (temporary(12) - temporary(6)) / 6 < 3 * activations < gram


@pytest.mark.parametrize("sizes", [(0, 3), (4, 0)], ids=["no_inputs", "no_hidden_units"])
def test_layers_without_units(sizes):
    params, x = [jnp.ones(sizes), jnp.ones((sizes[1], 2))], jnp.ones((3, sizes[0]))
    kernel, want = (
        ntk(dense, params, x, implementation=name)
        for name in ("structured", "jacobian_contraction")
    )
    np.testing.assert_allclose(kernel, want, atol=1e-12)


def agrees_within(memory_budget, x2=None, **options):
    """The kernel within a budget is the one without; returns the plan of the first."""
    params = params_of(options.pop("num_outputs", 5), options.pop("pairs", 1))
    names = {key: options[key] for key in ("outputs", "batched") if key in options}
    options |= {"implementation": "structured"}
    kernel = lambda **budget: jax.jit(lambda *inputs: ntk(network, *inputs, **options, **budget))(
        params, X, x2
    )
    found, want = kernel(memory_budget=memory_budget), kernel()
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12 * np.abs(other).max())
    return explain(network, params, X, x2, **names, memory_budget=memory_budget).plan


@pytest.mark.parametrize(
    ("num_outputs", "memory_budget", "other"),
    [(5, 1.5e5, False), (5, 2.5e5, True), (40, 2e5, False), (40, 3.5e5, True)],
)
def test_rows_that_do_not_fit_go_layer_by_layer(memory_budget, num_outputs, other):
    """Where the cotangents of all examples and outputs do, as those of many layers."""
    x2 = 2 * X[:3] if other else None
    plan = agrees_within(memory_budget, x2, num_outputs=num_outputs, pairs=3)
    assert (plan.inner or plan).blocks.streamed
    assert (plan.inner is not None) == (num_outputs == 40)


def test_layers_go_one_by_one():
    assert agrees_within(1.5e5, per_layer=True, pairs=3).blocks.streamed


def test_rows_and_cotangents_that_do_not_fit_come_for_some_outputs_at_a_time():
    plan = agrees_within(5e4)
    assert not plan.blocks.streamed
    assert plan.blocks.outputs < 5


@pytest.mark.parametrize("outputs", ["trace", "diagonal"])
@pytest.mark.parametrize(
    ("memory_budget", "batched", "size"), [(1, True, 1), (1, False, 1), (3e4, True, 2)]
)
def test_traces_a_few_outputs_at_a_time(memory_budget, batched, size, outputs):
    plan = agrees_within(memory_budget, outputs=outputs, batched=batched)
    assert plan.blocks.traced == ("o", size)


@pytest.mark.parametrize(
    ("room", "size", "other"), [(4, 4, False), (3, 2, True), (3, 2, False), (0.5, 1, True)]
)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_outputs": 40}, {"outputs": "trace"}, {"outputs": 3}, {"per_layer": True}],
    ids=lambda options: "-".join(options) or "full",
)
def test_a_few_examples_at_a_time(room, size, options, other):
    x2 = 2 * X[:5] if other else None
    params = params_of(options.pop("num_outputs", 5))
    want = jax.jit(functools.partial(ntk, network, **options))(params, X, x2)
    choices = Choices(examples=room)
    found = jax.jit(functools.partial(kernel_of, choices, network, **options))(params, X, x2)
    plan = plan_of(choices, network, params, X, x2, outputs=options.get("outputs", "full"))
    assert plan.tiles.size == size
    assert (plan.tiles.own is None) == other
    for one, other in zip(*map(jax.tree.leaves, (found, want)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12 * np.abs(other).max())


def test_of_a_few_examples_at_a_time_it_is_symmetric():
    kernel = jax.jit(functools.partial(kernel_of, Choices(examples=2), network))(params_of(5), X)
    np.testing.assert_allclose(kernel, kernel.transpose(2, 3, 0, 1), atol=1e-13 * kernel.max())


def test_of_a_few_examples_at_a_time_it_is_explained():
    told = explain(network, params_of(5), X, memory_budget=1)
    assert told.implementation == "structured"
    assert "1 examples with as many at a time" in str(told)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of the plan for a CPU")
def test_half_of_the_memory_is_half_of_the_memory():
    """Nearly so: by what XLA says that it takes, not by the plan's own estimate."""
    params = {"convolutions": [(shape(3, 3, 16, 16), shape(16))] * 4}
    f = lambda params, x: convolutional(params, x).mean((1, 2))
    x = shape(16, 32, 32, 16)

    def temporary(budget):
        kernel = jax.jit(functools.partial(ntk, f, memory_budget=budget))
        return kernel.lower(params, x).compile().memory_analysis().temp_size_in_bytes

    taken = temporary(None)
    for part in (2, 4):
        assert temporary(taken / part) < 2 * taken / part


@pytest.mark.parametrize("memory_budget", [0, -1.0])
def test_a_budget_is_positive(memory_budget):
    with pytest.raises(KernelInputError, match=r"memory_budget=.*expected a number of bytes"):
        ntk(network, params_of(5), X, memory_budget=memory_budget)
