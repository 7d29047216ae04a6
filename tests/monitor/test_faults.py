"""A loop with a hook in which everything breaks trains to the same parameters as one without."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ntk_train import NTKHook
from ntk_train.monitor.program import KernelProgram
from tests.monitor.test_hook import PARAMS, PROBE, Recorder, f

OPTIMIZER = optax.adam(0.05)


@jax.jit
def loss(params):
    return jnp.mean((f(params, PROBE) - 1) ** 2)


def train(hook, steps=12):
    """The parameters after some steps; the step donates them."""

    def update(params, opt_state):
        updates, opt_state = OPTIMIZER.update(jax.grad(loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    update = jax.jit(update, donate_argnums=(0, 1))
    params, opt_state = jax.tree.map(jnp.copy, PARAMS), OPTIMIZER.init(PARAMS)
    for step in range(steps):
        if hook is not None:
            hook(step, params=params)
        params, opt_state = update(params, opt_state)
    return jax.device_get(params)


class Broken(NTKHook):
    """Gets NaN parameters at step 2."""

    def __call__(self, step, *, params):
        if step == 2:
            params = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
        return super().__call__(step, params=params)


def no_memory(monkeypatch):
    start, calls = KernelProgram.start, []

    def exhausted(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 5:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: injected")
        return start(self, *args, **kwargs)

    monkeypatch.setattr(KernelProgram, "start", exhausted)
    monkeypatch.setattr("ntk_train.monitor.memory.MemoryBudget.halve", lambda *_: False)


def test_faults_leave_the_training_as_it_is(monkeypatch, caplog):
    want = train(None)
    no_memory(monkeypatch)
    writer = Recorder(fails=["write_images", "write_texts"])
    fails_once = lambda found: 1 / (found.step - 7)
    hook = Broken(f, PROBE, every_steps=1, writer=writer, stop_when=lambda m: fails_once(m) > 2)
    got = train(hook)
    hook.close()
    jax.tree.map(np.testing.assert_array_equal, got, want)
    scalars = dict(writer.of("write_scalars"))
    lost = [step for step, values in scalars.items() if "ntk/lambda_max" not in values]
    assert lost == [2, 4]
    for said in ("NonFiniteKernelError", "RESOURCE_EXHAUSTED", "disk full", "ZeroDivisionError"):
        assert said in caplog.text
    assert scalars[11]["ntk/failures"] >= 5
