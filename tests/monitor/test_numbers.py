"""What the hook logs beside the spectrum: layers, learning rate, whether to stop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntk_train import CrossEntropy, KernelInputError, NTKHook, SquaredLoss, Training, ntk
from tests.monitor.test_hook import PARAMS, PROBE, Recorder, f

LABELS = np.array([0, 1, 0, 1, 1, 0])


def test_layers_sum_to_the_kernel_and_have_a_group_of_tags():
    writer = Recorder()
    hook = NTKHook(f, PROBE, labels=LABELS, every_steps=1, writer=writer, per_layer=True)
    hook(0, params=PARAMS)
    hook.close()
    found = hook.latest
    np.testing.assert_allclose(found.kernel, ntk(f, PARAMS, PROBE, outputs="trace"), rtol=1e-12)
    parts = ntk(f, PARAMS, PROBE, outputs="trace", per_layer=True)
    assert set(found.layers) == {"w", "v"}
    for name, part in parts.items():
        want = np.trace(part) / np.trace(found.kernel)
        assert found.layers[name]["trace_share"] == pytest.approx(want)
        top = np.linalg.eigvalsh(part)[-1]
        assert found.layers[name]["lambda_max"] == pytest.approx(top)
    ((_, scalars),) = writer.of("write_scalars")
    assert scalars["ntk_layers/w/trace_share"] == found.layers["w"]["trace_share"]
    assert {"ntk_layers/v/alignment", "ntk_layers/v/centred_alignment"} <= set(scalars)
    assert not [tag for tag in scalars if tag.startswith("ntk/layer")]


def test_groups_of_layers_by_a_function():
    hook = NTKHook(f, PROBE, every_steps=1, per_layer=lambda path: "all")
    hook(0, params=PARAMS)
    assert hook.latest.layers["all"]["trace_share"] == 1
    assert NTKHook(f, PROBE, every_steps=1).latest is None


@pytest.mark.parametrize("rate", [0.1, np.float32(0.1), jnp.asarray(0.1), lambda step: 0.1])
def test_learning_rate_over_the_critical_one_of_squared_loss(rate):
    training = Training(SquaredLoss(mean="examples"), momentum=0.9)
    hook = NTKHook(f, PROBE, every_steps=1, outputs="full", training=training)
    hook(0, params=PARAMS, learning_rate=rate)
    found = hook.latest.diagnostics.scalars()
    critical = 2 * 1.9 / (found["lambda_max"] / len(PROBE))
    assert found["critical_learning_rate"] == pytest.approx(critical)
    assert found["full_batch_learning_rate_ratio"] == pytest.approx(0.1 / critical)


def test_critical_rate_of_the_cross_entropy_is_that_of_its_gauss_newton_hessian():
    hook = NTKHook(f, PROBE, every_steps=1, outputs="full", training=Training(CrossEntropy()))
    hook(0, params=PARAMS)

    def outputs(flat):
        return f({"w": flat[:15].reshape(3, 5), "v": flat[15:].reshape(5, 2)}, PROBE).reshape(-1)

    flat = jnp.concatenate([PARAMS["w"].reshape(-1), PARAMS["v"].reshape(-1)])
    j = np.asarray(jax.jacobian(outputs)(flat))  # [N O, P]
    loss = lambda z: optax.softmax_cross_entropy_with_integer_labels(z.reshape(6, 2), LABELS).mean()
    h = np.asarray(jax.hessian(loss)(outputs(flat)))
    want = 2 / np.linalg.eigvalsh(j.T @ h @ j)[-1]
    found = hook.latest.diagnostics.scalars()
    assert found["critical_learning_rate"] == pytest.approx(want, rel=1e-6)
    assert "full_batch_learning_rate_ratio" not in found


def test_a_rate_that_its_optimizer_donates_is_read_before():
    training = Training(SquaredLoss())
    hook = NTKHook(f, PROBE, every_steps=1, outputs="full", training=training)
    rate = jnp.asarray(0.25)
    hook(0, params=PARAMS, learning_rate=rate)
    jax.jit(lambda x: 2 * x, donate_argnums=0)(rate)
    found = hook.latest.diagnostics.scalars()
    assert found["full_batch_learning_rate_ratio"] * found[
        "critical_learning_rate"
    ] == pytest.approx(0.25)


def test_for_a_traced_kernel_there_is_no_critical_rate(caplog):
    caplog.set_level("INFO")
    hook = NTKHook(f, PROBE, every_steps=1, training=Training(CrossEntropy(), 0.1))
    hook(0, params=PARAMS)
    assert "critical_learning_rate" not in hook.latest.diagnostics.scalars()
    assert caplog.text.count("outputs='full'") == 1
    hook(1, params=PARAMS)
    hook.wait()
    assert caplog.text.count("outputs='full'") == 1


def test_it_asks_to_stop_and_says_why(caplog):
    writer = Recorder()
    bound = lambda found: found.step >= 4 and f"condition {found.spectrum.condition_number:.2g}"
    hook = NTKHook(f, PROBE, every_steps=2, writer=writer, stop_when=bound)
    stopped_at = None
    for step in range(10):
        hook(step, params=PARAMS)
        hook.wait()
        if hook.should_stop:
            stopped_at = step
            break
    assert stopped_at == 4
    assert hook.stop_reason.startswith("condition ")
    assert hook.stop_reason.endswith(" at step 4")
    assert hook.stop_reason in caplog.text
    texts = [text for _, text in writer.of("write_texts")]
    assert {"ntk/stop_reason": hook.stop_reason} in texts


def test_a_stop_condition_that_fails_stops_nothing(caplog):
    hook = NTKHook(f, PROBE, every_steps=1, stop_when=lambda found: 1 / 0)
    assert [hook(step, params=PARAMS) for step in range(3)] == [True] * 3
    hook.wait()
    assert not hook.should_stop
    assert hook.stop_reason == ""
    assert hook.failures == 3
    assert caplog.text.count("ZeroDivisionError") == 1


def test_the_history_has_the_numbers_by_step():
    hook = NTKHook(f, PROBE, every_steps=2)
    for step in range(5):
        hook(step, params=PARAMS)
    hook.wait()
    steps, values = hook.history.curve("lambda_max")
    assert steps == [0, 2, 4]
    assert values == [hook.latest.spectrum.lambda_max] * 3
    assert hook.history.curve("relative_change")[0] == [2, 4]


def two_heads(params, x):
    """Positions of four classes, and a head of a sigmoid."""
    hidden = jnp.tanh(x @ params["w"])
    tokens = (hidden[:, :4] * jnp.arange(1, 3)[:, None, None]).swapaxes(0, 1)  # [N, T, V]
    return {"next": tokens, "flag": hidden @ params["v"][:, 0]}


def test_a_loss_with_heads_and_positions_has_their_softmaxes():
    loss = CrossEntropy(classes=(1, 4, 4))  # in the order of the tree
    hook = NTKHook(two_heads, PROBE, every_steps=1, outputs="full", training=Training(loss))
    hook.prepare(params=PARAMS)
    hook(0, params=PARAMS)
    flat, unravel = jax.flatten_util.ravel_pytree(PARAMS)
    start, linear = jax.linearize(lambda flat: two_heads(unravel(flat), PROBE), flat)

    def loss_of_linearised(change):
        labels = np.array([[0, 1], [2, 3], [3, 3]] * 2)
        outputs = jax.tree.map(jnp.add, start, linear(change))
        rows = optax.softmax_cross_entropy_with_integer_labels(outputs["next"], labels)
        flags = optax.sigmoid_binary_cross_entropy(outputs["flag"], LABELS)
        return (rows.sum() + flags.sum()) / len(PROBE)

    want = 2 / np.linalg.eigvalsh(jax.hessian(loss_of_linearised)(jnp.zeros_like(flat)))[-1]
    found = hook.latest.diagnostics.scalars()
    assert found["critical_learning_rate"] == pytest.approx(want, rel=1e-6)


def test_a_loss_that_does_not_say_its_softmaxes_is_refused_and_costs_its_own_numbers(caplog):
    training = Training(CrossEntropy(), 0.1)
    hook = NTKHook(two_heads, PROBE, every_steps=1, outputs="full", training=training)
    match = r"\[6\] and \[6, 2, 4\]: an example has 3 softmaxes.*classes=\(1, 4, 4\)"
    with pytest.raises(KernelInputError, match=match):
        hook.prepare(params=PARAMS)
    for step in range(2):
        assert hook(step, params=PARAMS)
    hook.close()
    found = hook.latest.diagnostics.scalars()
    assert not [name for name in found if "learning_rate" in name]
    assert "lambda_max" in found
    assert hook.failures == 0
    assert caplog.text.count("an example has 3 softmaxes") == 1
