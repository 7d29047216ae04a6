"""That examples interact is seen in the program exactly where it is so in numbers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from ntk_train import models
from ntk_train.program.coupling import EXAMPLES, dependences_of, find_coupling
from ntk_train.program.coupling.dependence import UNKNOWN
from tests import oracle
from tests.bank import BANK

N, T, D = EXAMPLES, 4, 5
W = jnp.asarray(np.random.default_rng(0).normal(size=(D, D)))
LABELS = jnp.array([1, 0, 4])


def is_unknown(value):
    return bool(value.whole & UNKNOWN) or any(max(table) & UNKNOWN for table in value.axes.values())


def analysed(f, *x, out_axes=None):
    """What couples the examples of f(*x), and whether something of an output is unknown."""
    closed = jax.make_jaxpr(f)(*x)
    axes = [0] * len(jax.tree.leaves(x))
    coupling = find_coupling(closed, axes, out_axes or [0] * len(closed.out_avals))
    return coupling, any(map(is_unknown, dependences_of(closed, axes)))


def interact(f, x, draws=3):
    """Whether some output of f(x) [N, ...] changes with another example, in numbers."""
    rng, f = np.random.default_rng(1), jax.jit(f, compiler_options=oracle.QUICK)
    rows = lambda x: np.stack([np.ravel(row) for row in f(x)])
    before = rows(x)
    for j in range(N):
        for _ in range(draws):
            after = rows(x.at[j].add(rng.normal(size=x.shape[1:])))
            others = np.delete(np.abs(after - before), j, axis=0)
            if others.max(initial=0) > 1e-10:
                return True
    return False


INDEPENDENT = []
COUPLED = []
SILENT = []


def case(bank, *shape, of=""):
    """Adds a function of x [N, *shape] to a list, with what is to be found."""

    def add(f):
        x = jnp.asarray(np.random.default_rng(2).normal(size=(N, *(shape or (T, D)))))
        bank.append(pytest.param(f, x, of, id=f.__name__))
        return f

    return add


independent, coupled = functools.partial(case, INDEPENDENT), functools.partial(case, COUPLED)
silent = functools.partial(case, SILENT)


@pytest.mark.parametrize(("f", "x", "of"), INDEPENDENT)
def test_examples_that_stay_apart(f, x, of):
    assert not interact(f, x)
    assert analysed(f, x) == (None, False)


@pytest.mark.parametrize(("f", "x", "of"), COUPLED)
def test_examples_that_interact(f, x, of):
    assert interact(f, x)
    found, _ = analysed(f, x)
    assert found is not None
    assert found.primitive == of
    assert found.line.startswith("test_coupling.py:" if of else "")


@pytest.mark.parametrize(("f", "x", "of"), SILENT)
def test_nothing_is_said_where_nothing_is_known(f, x, of):
    assert analysed(f, x) == (None, True)


# Shapes that merge the axis of examples with others, and take it apart.


@independent()
def positions_as_rows_of_one_matrix(x):
    return jnp.sin(x.reshape(-1, D) @ W).reshape(len(x), T, D)


@independent()
def positions_before_examples(x):
    h = jnp.sin(x.swapaxes(0, 1).reshape(T * len(x), D) @ W)
    return h.reshape(T, len(x), D).swapaxes(0, 1)


@independent(4, 4, 2)
def patches_of_an_image(x):
    h = x.reshape(len(x), 2, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5)
    return nn.softmax(h.reshape(len(x) * 4, 8) @ jnp.ones((8, 3))).reshape(len(x), -1)


@independent()
def heads_of_attention_in_one_axis(x):
    h = x[..., :4].reshape(len(x), T, 2, 2).transpose(0, 2, 1, 3).reshape(-1, T, 2)
    h = nn.softmax(h @ h.mT, axis=-1) @ h
    return h.reshape(len(x), 2, T, 2).swapaxes(1, 2).reshape(len(x), T, 4)


@coupled(of="reshape")
def positions_mistaken_for_examples(x):
    return x.reshape(T, len(x), D).swapaxes(0, 1)


@coupled(N)
def outputs_transposed(x):
    return x.T


@coupled()
def examples_of_the_outputs_behind(x):
    return x[:, :N].swapaxes(0, 1)


# A batch taken apart and put together again.


@independent()
def one_after_the_other(x):
    return jnp.stack([jnp.sin(row @ W) for row in x])


@independent()
def in_small_batches(x):
    return jnp.concatenate([jnp.tanh(x[:2] @ W), jnp.tanh(x[2:] @ W)])


@independent()
def mapped(x):
    return lax.map(lambda row: (row @ W).sum(axis=0), x)


@independent()
def mapped_in_batches(x):
    return lax.map(lambda row: (row @ W).sum(axis=0), x, batch_size=2)


@independent()
def written_row_by_row(x):
    y = jnp.zeros((len(x), D))
    for i in range(len(x)):
        y = y.at[i].set(x[i].sum(axis=0))
    return y


@coupled(of="slice")
def shifted(x):
    return jnp.roll(x, 1, axis=0)


@coupled(of="add")
def the_first_for_all(x):
    return x + x[:1]


@coupled(of="rev")
def turned(x):
    return jnp.flip(x, 0)


@coupled(of="gather")
def in_another_order(x):
    return x[np.array([2, 0, 1])]


# Reductions and the like.


@independent()
def norms_of_each_example(x):
    h = (x - x.mean(axis=2, keepdims=True)) / x.std(axis=(1, 2), keepdims=True)
    return jnp.sort(jnp.cumsum(h, axis=1), axis=-1) + h.max(axis=1, keepdims=True)


@coupled(of="reduce_sum")
def centred_by_the_batch(x):
    return x - x.mean(axis=0)


@coupled(of="reduce_sum")
def centred_without_a_gradient(x):
    return x - lax.stop_gradient(x.mean(axis=(0, 1)))


@coupled(of="cumsum")
def running_sums(x):
    return jnp.cumsum(x, axis=0)


@coupled(of="sort")
def sorted_examples(x):
    return jnp.sort(x, axis=0)


@coupled(of="argmax")
def the_largest(x):
    return x * (jnp.argmax(x.sum(axis=(1, 2))) + 1)


@coupled(of="fft")
def frequencies_over_examples(x):
    return jnp.fft.fft(x, axis=0).real


@coupled(D, of="dot_general")
def similarities(x):
    return nn.log_softmax(x @ W @ x.T)


@coupled(D, of="conv_general_dilated")
def convolved_over_examples(x):
    taps = jnp.stack([W, 2 * W, W], axis=2)
    return lax.conv_general_dilated(x.T[None], taps, (1,), "SAME")[0].T


@coupled(of="reduce_window_sum")
def windows_over_examples(x):
    return lax.reduce_window(x, 0.0, lax.add, (2, 1, 1), (1, 1, 1), "SAME")


@independent()
def windows_over_positions(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2), (1, 1, 2), "SAME")


# Indices.


@independent(D)
def logits_of_labels(x):
    return nn.log_softmax(x)[jnp.arange(len(x)), LABELS]


@independent(D)
def logits_taken_along(x):
    return jnp.take_along_axis(nn.log_softmax(x), LABELS[:, None], axis=1)


@independent(D)
def logits_of_the_largest(x):
    return jnp.take_along_axis(x, jnp.argmax(x, axis=1)[:, None], axis=1)


@independent(D)
def raised_at_labels(x):
    return x.at[jnp.arange(len(x)), LABELS].multiply(2.0)


@independent()
def positions_chosen(x):
    return x[:, np.array([0, 2])] + x[:, 1:3]


@independent()
def cache_of_a_decoder(x):
    step = lambda cache, i: (lax.dynamic_update_index_in_dim(cache, x[:, i] @ W, i, 1), None)
    return lax.scan(step, jnp.zeros_like(x), jnp.arange(T))[0]


@silent()
def in_an_order_that_is_not_known(x):
    return x[jnp.argsort(jnp.sin(jnp.arange(N) + W[0, 0]))]


# Control flow.


@independent()
def scanned_over_time(x):
    step = lambda h, x_t: (jnp.tanh(h @ W + x_t), h)
    h, hs = lax.scan(step, jnp.zeros((len(x), D)), x.swapaxes(0, 1))
    return h + hs.sum(axis=0)


@coupled(of="add")
def scanned_over_examples(x):
    return lax.scan(lambda h, row: (h + row, h + row), jnp.zeros((T, D)), x)[1]


@coupled(of="reduce_sum")
def a_branch_for_all(x):
    return lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x) + x.sum()


@independent()
def a_branch_for_each(x):
    return jax.vmap(lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x))(x)


@independent()
def a_loop_for_each(x):
    grow = lambda x: lax.while_loop(lambda h: abs(h).sum() < 50, lambda h: 2 * h, x)
    return jax.vmap(grow)(x)


@silent()
def a_loop_for_all(x):
    return lax.while_loop(lambda h: abs(h).sum() < 50, lambda h: 2 * h, x)


@silent()
def a_callback(x):
    return jax.pure_callback(np.sin, x, x)


@silent()
def train_mode_by_a_flag_that_is_not_known(x):
    return lax.cond(W[0, 0] > 0, lambda: x - x.mean(axis=0), lambda: x)


@independent()
def eval_mode_by_a_flag(x):
    return jnp.where(jnp.asarray(False), x - x.mean(axis=0), x)


@independent()
def rules_of_its_own(x):
    return jax.checkpoint(jax.jit(lambda x: nn.relu(nn.gelu(jax.nn.silu(x @ W)))))(x)


@coupled(of="reduce_sum")
def inside_of_remat_and_jit(x):
    return jax.checkpoint(jax.jit(lambda x: x - x.mean(axis=0)))(x)


@independent(D, D)
def linear_algebra_of_each(x):
    matrix = 9 * jnp.eye(D) + x
    whole = jax.vmap(lambda a: jnp.linalg.solve(a, a[0]))(matrix)
    return whole + jnp.linalg.inv(matrix)[:, 0] + jnp.linalg.svd(x, compute_uv=False)


@independent()
def dropout_with_noise_for_all(x):
    return nn.Dropout(0.5, deterministic=False).apply({}, x, rngs={"dropout": jax.random.key(0)})


@independent()
def gradients_in_the_input(x):
    return jax.vmap(jax.grad(lambda x: nn.max_pool(x[None, ..., None], (2, 2)).sum()))(x)


# Sizes.


def test_two_examples_and_seven():
    for n in (2, 7):
        x = jnp.ones((n, T, D))
        assert analysed(lambda x: jnp.sin(x.reshape(-1, D) @ W).reshape(x.shape), x)[0] is None
        assert analysed(lambda x: x[::-1], x)[0].primitive == "rev"


def test_arrays_without_entries():
    x = {"full": jnp.ones((N, D)), "empty": jnp.ones((N, 0, T))}

    def f(x):
        nothing = jnp.cumsum(x["empty"], axis=1).reshape(len(x["full"]) * T, 0)
        total = nothing.sum() + x["full"][:, :0].reshape(0, N).sum(axis=0)
        left, right = jnp.split(x["full"], [0], axis=0)
        return total[:, None] + right, jnp.concatenate([left, right]), x["full"][:, :0]

    assert analysed(f, x) == (None, False)


# Networks.


def test_the_bank():
    unknown = set()
    for bank_case in BANK:
        f, params, x, _ = bank_case.make("float32")
        some = jax.tree.map(lambda leaf: leaf[:N], x)
        found, is_not_known = analysed(functools.partial(f, params), some)
        assert (found is None) == bank_case.batched, bank_case.name
        if is_not_known:
            unknown.add(bank_case.name)
    assert unknown == {"shard_map"}


def apply(model, x, **call):
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return lambda x: model.apply(zeros, x, **call)


FAMILIES = {
    "fcn": {"widths": (5,)},
    "cnn": {"features": (3,)},
    "resnet-18": {"stages": (1, 1), "features": 2, "stem": "cifar"},
    "resnet-50": {"stages": (1, 1), "features": 2},
    "wrn-16-4": {"depth": 10, "widen_factor": 1, "features": 2},
    "vit-ti/16": {"depth": 2},
    "mixer-s/16": {"depth": 2},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_models_in_eval_mode_keep_examples_apart(name):
    x = jax.ShapeDtypeStruct((N, 32, 32, 3), jnp.float32)
    model = models.create_model(name, num_outputs=2, **FAMILIES[name])
    assert analysed(apply(model, x, train=False), x) == (None, False)


@pytest.mark.heavy
@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_in_eval_mode_keeps_examples_apart(name):
    x = jax.ShapeDtypeStruct((N, 224, 224, 3), jnp.float32)
    assert analysed(apply(models.create_model(name), x, train=False), x) == (None, False)


def test_batch_norm_in_train_mode_is_named_with_its_line():
    x = jax.ShapeDtypeStruct((N, 32, 32, 3), jnp.float32)
    model = models.create_model("resnet-18", num_outputs=2, **FAMILIES["resnet-18"])
    train = apply(model, x, train=True, mutable=["batch_stats"])
    found, _ = analysed(lambda x: train(x)[0], x)
    assert found.primitive == "reduce_sum"
    assert found.line.startswith("parts.py:")


def test_batch_norm_of_nnx():
    for train in (True, False):
        graph, state = nnx.split(nnx.BatchNorm(D, use_running_average=not train, rngs=nnx.Rngs(0)))
        f = lambda x: nnx.merge(graph, state, copy=True)(x)  # noqa: B023
        found, _ = analysed(f, jnp.ones((N, D), jnp.float32))
        assert (found is not None) == train
