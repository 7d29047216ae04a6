import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("ml_collections")

from ntk_train.configs import default
from ntk_train.train.optimizer import make_optimizer, make_schedule


def config_of(**fields):
    config = default.get_config().optimizer
    config.update(fields)
    return config


@pytest.mark.parametrize(
    ("schedule", "steps", "rates"),
    [
        ("constant", [0, 5, 99], [1.0, 1.0, 1.0]),
        ("cosine", [0, 50, 100], [1.0, 0.5, 0.0]),
    ],
)
def test_schedules(schedule, steps, rates):
    schedule = make_schedule(config_of(schedule=schedule, learning_rate=1.0), 100)
    np.testing.assert_allclose([schedule(step) for step in steps], rates, atol=1e-6)


def test_warm_up_rises_to_the_peak_and_the_cosine_ends_at_the_last_step():
    schedule = make_schedule(config_of(learning_rate=1.0, warmup_steps=20), 100)
    rates = [schedule(step) for step in (0, 10, 20, 60, 100)]
    np.testing.assert_allclose(rates, [0.0, 0.5, 1.0, 0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_spares_biases(name):
    config = config_of(name=name, learning_rate=0.5, schedule="constant", weight_decay=0.1)
    optimizer = make_optimizer(config, make_schedule(config, 10))
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zero = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0.0)


def test_steps_lower_the_rate_at_fractions_of_the_whole_run():
    fields = {"schedule": "step", "step_fractions": (0.5, 0.75), "step_factor": 0.1}
    schedule = make_schedule(config_of(learning_rate=1.0, warmup_steps=20, **fields), 100)
    rates = [schedule(step) for step in (20, 49, 51, 74, 76, 99)]
    np.testing.assert_allclose(rates, [1.0, 1.0, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    with pytest.raises(ValueError, match=r"step_fractions=.*rising numbers between 0 and 1"):
        make_schedule(config_of(step_fractions=(0.75, 0.5)), 100)


def test_nesterov_looks_ahead():
    params = gradient = {"kernel": jnp.ones((2, 2))}
    steps = []
    for nesterov in (False, True):
        config = config_of(name="sgd", learning_rate=1.0, schedule="constant", nesterov=nesterov)
        config.weight_decay = 0.0
        optimizer = make_optimizer(config, make_schedule(config, 10))
        steps.append(optimizer.update(gradient, optimizer.init(params), params)[0]["kernel"][0, 0])
    np.testing.assert_allclose(steps, [-1.0, -1.9], rtol=1e-6)


def test_clipping_bounds_the_norm_of_the_gradient():
    config = config_of(name="sgd", learning_rate=1.0, schedule="constant", clip_norm=0.5)
    config.weight_decay = 0.0
    optimizer = make_optimizer(config, make_schedule(config, 10))
    params = {"kernel": jnp.ones((2, 2))}
    for scale, norm in ((10.0, 0.5), (0.1, 0.2)):
        gradient = {"kernel": scale * jnp.ones((2, 2))}
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        np.testing.assert_allclose(np.linalg.norm(updates["kernel"]), norm, rtol=1e-5)
    with pytest.raises(ValueError, match="clip_norm=-1"):
        make_optimizer(config_of(clip_norm=-1.0), make_schedule(config, 10))
