import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("ml_collections")

from configs import default
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
