import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("grain")

from ntk_train.data import ArraySource
from ntk_train.data.pipeline import eval_batches
from ntk_train.models import create_model
from ntk_train.train.state import create_state
from ntk_train.train.step import evaluate, make_eval_step, make_train_step

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(10, 4, 4, 1)).astype(np.float32)
LABELS = RNG.integers(0, 3, size=10).astype(np.int32)
BATCH = {"image": IMAGES, "label": LABELS}
FCN = create_model("fcn", num_outputs=3, widths=(8,))


def state_of(model, optimizer):
    return create_state(model, optimizer, (4, 4, 1), seed=0)


def test_a_step_is_plain_gradient_descent():
    optimizer = optax.sgd(0.1)
    state = state_of(FCN, optimizer)
    before = jax.device_get(state.params)

    def loss_fn(params):
        logits = FCN.apply({"params": params}, IMAGES)
        return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(10), LABELS])

    loss, gradient = jax.value_and_grad(loss_fn)(before)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, before, gradient)
    state, metrics = make_train_step(FCN, optimizer, seed=0)(state, BATCH)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, expected)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    assert int(state.step) == 1
    assert not state.diverged


def test_smoothed_labels_are_part_uniform():
    optimizer = optax.sgd(0.1)
    logits = FCN.apply({"params": state_of(FCN, optimizer).params}, IMAGES)
    q = 0.7 * np.eye(3)[LABELS] + 0.3 / 3
    want = -np.mean(np.sum(q * jax.nn.log_softmax(logits), axis=-1))
    step = make_train_step(FCN, optimizer, seed=0, label_smoothing=0.3)
    _, metrics = step(state_of(FCN, optimizer), BATCH)
    np.testing.assert_allclose(metrics["loss"], want, rtol=1e-6)


def test_dtypes_stay_and_nothing_compiles_twice():
    optimizer = optax.adamw(optax.cosine_decay_schedule(0.1, 10))
    model = create_model("cnn", num_outputs=3, features=(4,), norm="batch")
    state, step = state_of(model, optimizer), make_train_step(model, optimizer, seed=0)
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, state)
    for _ in range(2):
        state, metrics = step(state, BATCH)
    assert jax.tree.map(lambda leaf: leaf.dtype, state) == dtypes
    assert metrics["loss"].dtype == jnp.float32
    assert step._cache_size() == 1


def test_batch_norm_statistics_are_updated():
    optimizer = optax.sgd(0.1)
    model = create_model("cnn", num_outputs=3, features=(4,), norm="batch")
    state = state_of(model, optimizer)
    before = jax.device_get(state.model_state["batch_stats"])
    state, _ = make_train_step(model, optimizer, seed=0)(state, BATCH)
    after = state.model_state["batch_stats"]
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert not np.array_equal(before["BatchNorm_0"]["mean"], after["BatchNorm_0"]["mean"])


def test_dropout_depends_on_seed_and_step_alone():
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.Dropout(0.5, deterministic=not train)(x.reshape(x.shape[0], -1))
            return nn.Dense(3, param_dtype=jnp.float32)(x)

    model, optimizer = Dropped(), optax.sgd(0.0)  # the parameters stay, the masks do not

    def losses(seed):
        state, step = state_of(model, optimizer), make_train_step(model, optimizer, seed)
        found = []
        for _ in range(2):
            state, metrics = step(state, BATCH)
            found.append(float(metrics["loss"]))
        return found

    first = losses(0)
    assert losses(0) == first
    assert len({*first, *losses(1)}) == 4


def test_the_state_stays_the_last_finite_one():
    optimizer = optax.sgd(0.1)
    state, step = state_of(FCN, optimizer), make_train_step(FCN, optimizer, seed=0)
    state, _ = step(state, BATCH)
    good = jax.device_get(state)
    bad = BATCH | {"image": np.full_like(IMAGES, np.nan)}
    for batch in (bad, BATCH):  # a good batch does not wake it
        state, metrics = step(state, batch)
        assert metrics["diverged"]
    jax.tree.map(np.testing.assert_array_equal, state.replace(diverged=good.diverged), good)


@pytest.mark.parametrize("batch_size", [3, 10, 16])
def test_evaluation_is_exact_with_a_partial_last_batch(batch_size):
    state = state_of(FCN, optax.sgd(0.1))
    found = evaluate(
        make_eval_step(FCN), state, eval_batches(ArraySource(IMAGES, LABELS), batch_size=batch_size)
    )
    logits = np.asarray(FCN.apply({"params": state.params}, IMAGES), np.float64)
    log_probability = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(found["loss"], -log_probability[np.arange(10), LABELS].mean(), 1e-6)
    assert found["accuracy"] == pytest.approx(np.mean(logits.argmax(-1) == LABELS), abs=1e-12)
