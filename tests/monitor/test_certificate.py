"""A wrong kernel is never logged: it is said, named, and computed by Jacobian contraction."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import NTKHook
from ntk_train.kernel.ways import Identity
from ntk_train.monitor import certifier
from tests import oracle
from tests.bank import BANK
from tests.monitor.test_hook import Recorder

PROBE = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
PARAMS = {
    "first": jnp.asarray(np.random.default_rng(1).normal(size=(3, 5))),
    "last": jnp.asarray(np.random.default_rng(2).normal(size=(5, 2))),
}


def f(params, x):
    return jnp.tanh(x @ params["first"]) @ params["last"]


def curve(writer, name):
    """A number by step."""
    return {
        step: numbers[f"ntk/{name}"]
        for step, numbers in writer.of("write_scalars")
        if f"ntk/{name}" in numbers
    }


def trace():
    return np.einsum("nomo->nm", oracle.kernel(f, PARAMS, PROBE))


@pytest.fixture
def doubled(monkeypatch):
    """The last layer's part of every structured kernel is twice what it should be."""
    identity = Identity.contract

    def twice(*arguments):
        part = identity(*arguments)
        return part._replace(values=2 * part.values)

    monkeypatch.setattr(Identity, "contract", twice)


def test_the_first_kernel_the_second_and_the_fourth_are_certified():
    writer = Recorder()
    with NTKHook(f, PROBE, every_steps=1, writer=writer, pictures=False) as hook:
        for step in range(5):
            hook(step, params=PARAMS)
    deviations = curve(writer, "deviation")
    assert list(deviations) == [0, 1, 3]
    assert all(0 <= deviation < 1e-12 for deviation in deviations.values())
    assert hook.failures == 0


def test_a_wrong_kernel_is_replaced_and_its_layer_named(doubled, caplog):
    writer = Recorder()
    with NTKHook(
        f, PROBE, every_steps=1, writer=writer, implementation="structured", pictures=False
    ) as hook:
        hook(0, params=PARAMS)
        hook.wait()
        assert hook.convention.implementation == "jacobian_contraction"
        np.testing.assert_allclose(hook.latest.kernel, trace(), rtol=1e-12)
        hook(1, params=jax.tree.map(jnp.array, PARAMS))
    assert hook.failures == 1
    assert not hook.gave_up
    assert list(curve(writer, "lambda_max")) == [0, 1]
    assert list(curve(writer, "deviation")) == [0]
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert any("is wrong, and is not logged" in text for text in errors)
    (named,) = [text for text in errors if "It is wrong in" in text]
    assert "last (1)" in named
    assert "first" not in named


def test_donated_parameters_are_measured_at_the_next_step(doubled):
    writer = Recorder()
    step_of = jax.jit(lambda params: jax.tree.map(lambda leaf: leaf + 0, params), donate_argnums=0)
    params = step_of(jax.tree.map(jnp.copy, PARAMS))
    with NTKHook(
        f, PROBE, every_steps=2, writer=writer, implementation="structured", pictures=False
    ) as hook:
        hook.prepare(params=params)
        hook.pipeline._kernels._program.wait()
        for step in range(5):
            hook(step, params=params)
            params = step_of(params)
    steps = list(curve(writer, "lambda_max"))
    assert steps[-2:] == [2, 4]
    assert hook.failures == 1


def test_examples_that_interact_keep_their_kernel_and_say_by_how_much_it_deviates():
    (case,) = [case for case in BANK if case.name == "batch_norm_in_train_mode"]
    g, params, x, _ = case.make("float64")
    writer = Recorder()
    with NTKHook(g, x, every_steps=1, writer=writer, pictures=False) as hook:
        with pytest.warns(match="interact"):
            hook(0, params=params)
        assert hook.latest is not None
    assert curve(writer, "deviation")[0] > 1e-3
    assert hook.failures == 0


def test_a_check_that_fails_costs_no_measurement(monkeypatch, caplog):
    def fails(*_):
        raise MemoryError("no room for a backward pass")

    monkeypatch.setattr(certifier.Check, "product", fails)
    writer = Recorder()
    with NTKHook(f, PROBE, every_steps=1, writer=writer, pictures=False) as hook:
        hook(0, params=PARAMS)
    assert hook.failures == 0
    assert list(curve(writer, "lambda_max")) == [0]
    assert not curve(writer, "deviation")
    assert "no room for a backward pass" in caplog.text


def test_without_check_nothing_is_certified():
    writer = Recorder()
    with NTKHook(f, PROBE, every_steps=1, writer=writer, pictures=False, check=False) as hook:
        hook(0, params=PARAMS)
    assert not curve(writer, "deviation")
    assert list(curve(writer, "lambda_max")) == [0]
