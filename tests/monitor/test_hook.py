"""The hook in a training loop: right numbers, and whatever breaks, training goes on."""

import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntk_train import (
    CoupledExamplesWarning,
    KernelInputError,
    NTKHook,
    kernel_spectrum,
    linen_fn,
    ntk,
)
from ntk_train.monitor.program import KernelProgram
from ntk_train.spectrum import ReferenceKernels

PARAMS = {"w": jnp.linspace(-1, 1, 15).reshape(3, 5), "v": jnp.linspace(1, 2, 10).reshape(5, 2)}
PROBE = jnp.sin(jnp.arange(18.0)).reshape(6, 3)


def f(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


class Recorder:
    """A metric writer that keeps what it is given."""

    def __init__(self, fails=()):
        self.written = []
        self.fails = fails
        self.flushed = 0

    def __getattr__(self, method):
        if not method.startswith("write_"):
            raise AttributeError(method)

        def write(*args):
            if method in self.fails:
                raise OSError("disk full")
            self.written.append((method, *args))

        return write

    def flush(self):
        self.flushed += 1

    def of(self, method):
        return [args for name, *args in self.written if name == method]


def test_in_a_loop_with_donated_parameters_it_logs_the_kernel_of_each_step():
    writer = Recorder()
    hook = NTKHook(f, PROBE, every_steps=2, writer=writer)
    optimizer = optax.sgd(0.01)

    def train(params, opt_state):
        grads = jax.grad(lambda p: jnp.mean(f(p, PROBE) ** 2))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state

    train = jax.jit(train, donate_argnums=(0, 1))
    params, opt_state = jax.tree.map(jnp.copy, PARAMS), optimizer.init(PARAMS)
    want = {}
    for step in range(5):
        ran = hook(step, params=params)
        assert ran == (step % 2 == 0)
        if ran:
            want[step] = kernel_spectrum(ntk(f, params, PROBE, outputs="trace"))
            assert hook.latest.step == step
            assert hook.latest.seconds > 0
            assert hook.latest.kernel.shape == (6, 6)
        params, opt_state = train(params, opt_state)
    hook.close()
    assert writer.flushed == 1
    scalars = dict(writer.of("write_scalars"))
    assert list(scalars) == [0, 2, 4]
    for step, found in want.items():
        assert scalars[step]["ntk/failures"] == 0
        for name, value in found.scalars().items():
            assert scalars[step][f"ntk/{name}"] == pytest.approx(value, rel=1e-6), name
    assert len({values["ntk/lambda_max"] for values in scalars.values()}) == 3
    (_, histogram), *_ = writer.of("write_histograms")
    np.testing.assert_allclose(10 ** histogram["ntk/log10_eigenvalues"], want[0].eigenvalues)
    assert [step for step, _ in writer.of("write_images")] == [0, 2, 4]
    assert writer.of("write_images")[0][1]["ntk/spectrum"].dtype == np.uint8


def test_alignment_with_the_labels_and_change_since_the_first_kernel():
    labels, writer = np.array([0, 0, 0, 1, 1, 1]), Recorder()
    hook = NTKHook(f, PROBE, labels=labels, every_steps=5, writer=writer)
    moved = {"w": 1.1 * PARAMS["w"], "v": PARAMS["v"]}
    kernels = [np.asarray(ntk(f, p, PROBE, outputs="trace")) for p in (PARAMS, moved)]
    hook(0, params=PARAMS)
    hook.wait()
    assert "ntk/relative_change" not in dict(writer.of("write_scalars"))[0]
    hook(5, params=moved)
    hook.wait()
    scalars = dict(writer.of("write_scalars"))
    y = np.eye(2)[labels] @ np.eye(2)[labels].T
    for step, kernel in zip((0, 5), kernels):
        want = np.sum(kernel * y) / np.linalg.norm(kernel) / np.linalg.norm(y)
        assert scalars[step]["ntk/kernel_target_alignment"] == pytest.approx(want, rel=1e-6)
    change = np.linalg.norm(kernels[1] - kernels[0]) / np.linalg.norm(kernels[0])
    assert scalars[5]["ntk/relative_change"] == pytest.approx(change, rel=1e-6)
    assert hook.references.initial_step == 0
    assert hook.references.previous_step == 5


def test_its_share_of_the_time_is_bounded_and_logged():
    writer = Recorder()
    options = {"every_steps": 1, "on_steps": [3], "max_overhead": 0.01, "pictures": False}
    hook = NTKHook(f, PROBE, writer=writer, **options)
    assert hook(0, 0.0, params=PARAMS)
    rest = hook.latest.seconds / 0.01  # at least
    assert not hook(1, 0.5 * rest, params=PARAMS)
    assert hook(3, 0.6 * rest, params=PARAMS)  # asked for by name
    hook.wait()
    assert hook(4, 1e9, params=PARAMS)
    hook.wait()
    shares = [scalars.get("ntk/time_share") for _, scalars in writer.of("write_scalars")]
    assert shares[0] is None
    assert all(0 < share <= 1 for share in shares[1:])


def test_a_hook_that_gets_the_references_goes_on_as_if_it_had_not_stopped():
    moved = [{"w": (1 + 0.1 * i) * PARAMS["w"], "v": PARAMS["v"]} for i in range(3)]
    whole, first = (NTKHook(f, PROBE, every_steps=1) for _ in range(2))
    for step in range(3):
        whole(step, params=moved[step])
    for step in range(2):
        first(step, params=moved[step])
    kept = ReferenceKernels.from_dict(first.references.to_dict())
    second = NTKHook(f, PROBE, every_steps=1, references=kept)
    second(2, params=moved[2])
    assert second.latest.diagnostics.scalars() == whole.latest.diagnostics.scalars()


def test_references_of_another_convention_start_anew(caplog):
    first = NTKHook(f, PROBE, every_steps=1)
    first(0, params=PARAMS)
    other = NTKHook(f, PROBE, every_steps=1, outputs="sum", references=first.references)
    other(1, params=PARAMS)
    other.wait()
    assert "its change is counted anew from step 1" in caplog.text
    assert "relative_change" not in other.latest.diagnostics.scalars()
    assert other.references.initial_step == 1
    assert other.failures == 0


def test_the_convention_is_written_once_as_text_and_hparams():
    writer = Recorder()
    hook = NTKHook(f, PROBE, every_steps=1, writer=writer, outputs="full", prefix="ntk/probe")
    for step in range(3):
        hook(step, params=PARAMS)
    hook.close()
    ((_, text),) = writer.of("write_texts")
    ((hparams,),) = writer.of("write_hparams")
    want = {
        "outputs": "full",
        "examples": "independent (BatchNorm, if any, in eval mode)",
        "parameters": "all 2 leaves",
        "num_parameters": 25,
        "num_examples": 6,
        "num_outputs": 2,
        "param_dtype": "float64",
        "output_dtype": "float64",
        "kernel_dtype": "float64",
        "precision": "float32",
        "function": "f",
    }
    for name, value in want.items():
        assert hparams[f"ntk/probe/{name}"] == value
        assert f"| {name.replace('_', ' ')} | {value} |" in text["ntk/probe/convention"]
    chosen = hparams["ntk/probe/implementation"]
    assert chosen == "structured"


def test_it_traces_and_compiles_once():
    traces = []

    def counted(params, x):
        traces.append(threading.current_thread())
        return f(params, x)

    hook = NTKHook(counted, PROBE, every_steps=1, implementation="jacobian_contraction")
    hook.prepare(params=PARAMS)
    after_prepare = len(traces)
    for step in range(4):
        assert hook(step, params=jax.tree.map(lambda leaf, s=step: leaf + s, PARAMS))
    assert len(traces) == after_prepare
    assert set(traces) == {
        threading.main_thread()
    }  # contexts of the caller are those of its thread


def test_other_shapes_are_compiled_anew(caplog):
    hook = NTKHook(f, PROBE, every_steps=1)
    assert hook(0, params=PARAMS)
    wide = {"w": jnp.ones((3, 7)), "v": jnp.ones((7, 2))}
    assert hook(1, params=wide)
    assert "compiled anew" in caplog.text
    want = kernel_spectrum(ntk(f, wide, PROBE, outputs="trace")).lambda_max
    assert hook.latest.spectrum.lambda_max == pytest.approx(want)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(5, param_dtype=x.dtype)(x)
        x = nn.BatchNorm(not train, param_dtype=x.dtype)(x)
        return nn.Dense(2, param_dtype=x.dtype)(nn.relu(x))


def test_running_statistics_are_read_and_never_differentiated():
    variables = Net().init(jax.random.key(0), PROBE, train=False)
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    state = jax.tree.map(lambda leaf: leaf + 0.5, state)
    hook = NTKHook(linen_fn(Net(), train=False), PROBE, every_steps=1)
    assert hook(0, params=params, model_state=state)
    evaluated = lambda p, x: Net().apply({"params": p, **state}, x, train=False)
    want = kernel_spectrum(ntk(evaluated, params, PROBE, outputs="trace"))
    found = hook.latest.spectrum.eigenvalues
    np.testing.assert_allclose(found, want.eigenvalues, atol=1e-6 * want.lambda_max)  # float32
    assert hook.convention.num_parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert hook.convention.function == "Net(train=False)"


def test_batch_norm_in_train_mode_is_coupled_and_said_to_be(caplog):
    variables = Net().init(jax.random.key(0), PROBE, train=False)
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    trained = linen_fn(Net(), train=True, mutable=["batch_stats"])
    coupled = NTKHook(trained, PROBE, every_steps=1, batched=False)
    assert coupled(0, params=params, model_state=state)
    coupled.wait()
    assert coupled.convention.examples == "coupled (as by BatchNorm in train mode)"
    assert not caplog.records
    claimed_independent = NTKHook(trained, PROBE, every_steps=1)
    with pytest.warns(CoupledExamplesWarning, match=r"reduce_sum \(test_hook.py") as warned:
        assert claimed_independent(0, params=params, model_state=state)
    claimed_independent.wait()
    assert len(warned) == 1
    assert "batched=False" in str(warned[0].message)
    assert not caplog.records  # it is said once


def test_a_filter_is_named_in_the_convention():
    def weights(path):
        return path == "w"

    hook = NTKHook(f, PROBE, every_steps=1, param_filter=weights)
    convention = hook.prepare(params=PARAMS)
    assert convention.parameters.startswith("1 leaves by ")
    assert convention.parameters.endswith("weights: w")
    assert convention.num_parameters == 15


def test_non_finite_parameters_are_counted_and_survived(caplog):
    writer = Recorder()
    hook = NTKHook(f, PROBE, every_steps=1, writer=writer)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, PARAMS)
    for step, params in enumerate((PARAMS, broken, PARAMS)):
        assert hook(step, params=params)  # begun; what comes of it is known later
    hook.wait()
    assert hook.failures == 1
    assert hook.references.previous_step == 2
    assert hook.latest.diagnostics.scalars()["relative_change"] == 0
    assert "step 1" in caplog.text
    assert "NonFiniteKernelError" in caplog.text
    assert [values["ntk/failures"] for _, values in writer.of("write_scalars")] == [0, 1, 1]


def test_out_of_memory_says_what_to_do(caplog, monkeypatch):
    hook = NTKHook(f, PROBE, every_steps=1)

    def exhausted(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(KernelProgram, "start", exhausted)
    assert not hook(0, params=PARAMS)
    assert "fewer probe inputs" in caplog.text


def test_it_gives_up_after_failures_in_a_row(caplog):
    hook = NTKHook(lambda p, x: f(p, x) * 1j, PROBE, every_steps=1, max_failures=2)
    assert [hook(step, params=PARAMS) for step in range(5)] == [False] * 5
    assert hook.failures == 2
    assert "gives up" in caplog.text
    assert caplog.text.count("training goes on") == 2


def test_pictures_are_drawn_ever_less_often_and_at_the_end():
    writer = Recorder()
    with NTKHook(f, PROBE, every_steps=1, writer=writer) as hook:
        for step in range(8):
            hook(step, params=PARAMS)
    assert [step for step, _ in writer.of("write_images")] == [0, 1, 2, 4, 7]
    hook.close()
    assert len(writer.of("write_images")) == 5


KINDS = ["write_scalars", "write_histograms", "write_images", "write_texts", "write_hparams"]


@pytest.mark.parametrize("broken", KINDS)
def test_what_fails_to_be_written_takes_nothing_along(broken, caplog):
    writer = Recorder(fails=[broken])
    hook = NTKHook(f, PROBE, every_steps=1, writer=writer)
    assert [hook(step, params=PARAMS) for step in range(5)] == [True] * 5
    hook.wait()
    once = broken in ("write_texts", "write_hparams")
    assert hook.failures == (1 if once else 4 if broken == "write_images" else 5)
    assert caplog.text.count("disk full") == 1
    for kind in KINDS:
        expected = 1 if kind in ("write_texts", "write_hparams") else 5
        if kind == "write_images":
            expected = 4  # of the first, second, third and fifth
        assert len(writer.of(kind)) == (0 if kind == broken else expected)


def test_a_writer_that_cannot_flush_is_survived(caplog):
    class Full(Recorder):
        def flush(self):
            raise OSError("disk full")

    NTKHook(f, PROBE, every_steps=1, writer=Full()).close()
    assert "disk full" in caplog.text


def test_a_step_on_the_device_may_be_donated_and_a_wrong_one_is_survived(caplog):
    hook = NTKHook(f, PROBE, every_steps=2)
    step, advance = jnp.asarray(0), jax.jit(lambda step: step + 1, donate_argnums=0)
    ran = []
    for _ in range(4):
        ran.append(hook(step, params=PARAMS))
        step = advance(step)
    assert ran == [True, False, True, False]
    assert not hook(jnp.arange(2), params=PARAMS)
    assert "No kernel at step [0 1]" in caplog.text


def test_a_step_that_has_been_donated_is_survived(caplog):
    hook, step = NTKHook(f, PROBE, every_steps=1), jnp.asarray(0)
    jax.jit(lambda step: step + 1, donate_argnums=0)(step)
    assert not hook(step, params=PARAMS)
    assert "No kernel at step <ArrayImpl without a value> in ntk" in caplog.text
    assert hook.failures == 1
    assert hook(1, params=PARAMS)


def test_model_state_cannot_replace_the_parameters():
    variables = Net().init(jax.random.key(0), PROBE, train=False)
    hook = NTKHook(linen_fn(Net(), train=False), PROBE, every_steps=1)
    assert hook(0, params=variables["params"], model_state=variables)
    assert hook.latest.spectrum.lambda_max > 0


def test_outputs_that_do_not_depend_on_the_parameters_are_pointed_out(caplog):
    hook = NTKHook(lambda params, x: x, PROBE, every_steps=1)
    assert hook(0, params=PARAMS)
    hook.wait()
    assert "kernel at step 0 is zero" in caplog.text


def test_coupling_that_no_program_shows_is_looked_for_until_outputs_are_not_zero(caplog):
    def f(w, x):  # the number of iterations depends on all examples
        longest = jax.lax.while_loop(lambda n: n < abs(x).sum(), lambda n: n + 1.0, 0.0)
        return longest * x @ w

    hook = NTKHook(f, PROBE, every_steps=1, check=False)  # which would see it at once
    assert hook(0, params=jnp.zeros((3, 2)))
    hook.wait()
    assert "examples interact" not in caplog.text
    assert hook(1, params=jnp.ones((3, 2)))
    hook.wait()
    assert "examples interact" in caplog.text


def test_functions_among_the_parameters_are_held_constant():
    params = PARAMS | {"activation": jnp.sin}
    hook = NTKHook(lambda p, x: p["activation"](f(p, x)), PROBE, every_steps=1)
    assert [hook(step, params=params) for step in range(2)] == [True, True]
    want = kernel_spectrum(ntk(lambda p, x: jnp.sin(f(p, x)), PARAMS, PROBE, outputs="trace"))
    np.testing.assert_allclose(hook.latest.spectrum.eigenvalues, want.eigenvalues, rtol=1e-9)


def test_a_jacobian_in_bfloat16_raises_the_noise_floor():
    close = jnp.concatenate([PROBE[:1], PROBE[:1] + 1e-5, PROBE[1:3]]).astype(jnp.float32)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), PARAMS)

    def rounded(params, x):
        return f(*jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, x)))

    exact, low = (NTKHook(g, close, every_steps=1) for g in (f, rounded))
    assert exact(0, params=params)
    assert low(0, params=params)
    assert low.convention.output_dtype == "bfloat16"
    ratio = low.latest.spectrum.noise_floor / low.latest.spectrum.lambda_max
    assert ratio == pytest.approx(2.0**-14, rel=1e-3)
    assert low.latest.spectrum.condition_is_lower_bound


def test_a_changed_convention_is_written_again():
    writer = Recorder()
    hook = NTKHook(f, PROBE, every_steps=1, writer=writer)
    hook(0, params=PARAMS)
    hook(1, params={"w": jnp.ones((3, 7)), "v": jnp.ones((7, 2))})
    hook.wait()
    assert len(writer.of("write_texts")) == 2
    assert len(writer.of("write_hparams")) == 1


def test_numpy_and_device_parameters_share_a_program(caplog):
    hook = NTKHook(f, PROBE, every_steps=1)
    assert hook(0, params=jax.tree.map(np.asarray, PARAMS))
    assert hook(1, params=PARAMS)
    hook.wait()
    assert not caplog.records


def test_an_interrupt_is_not_swallowed(monkeypatch):
    hook = NTKHook(f, PROBE, every_steps=1)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(KernelProgram, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hook(0, params=PARAMS)


def test_prepare_raises_what_a_call_would_survive():
    hook = NTKHook(f, PROBE, every_steps=1)
    with pytest.raises(KernelInputError, match="batch_stats"):
        hook.prepare(params={"params": PARAMS, "batch_stats": {}})


@pytest.mark.parametrize(
    ("probe", "options", "match"),
    [
        (PROBE, {}, "never run"),
        (PROBE, {"every_steps": 1, "outputs": "diagonal"}, "no square kernel"),
        (PROBE[:0], {"every_steps": 1}, "at least one example"),
        ({}, {"every_steps": 1}, "at least one example"),
        (PROBE.at[0].set(jnp.nan), {"every_steps": 1}, "probe holds NaN"),
        ({"a": PROBE, "b": PROBE[:3]}, {"every_steps": 1}, "as many examples in each"),
        (PROBE, {"every_steps": 1, "outputs": "trce"}, "outputs='trce'"),
        (PROBE, {"every_steps": 1, "implementation": "fast"}, "implementation='fast'"),
        (PROBE, {"every_steps": 1, "precision": "exact"}, "precision='exact'"),
        (PROBE, {"every_steps": 1, "max_failures": 0}, "max_failures=0"),
        (PROBE, {"every_steps": 1, "max_overhead": 0.0}, "max_overhead=0.0; expected a part"),
        (PROBE, {"every_steps": 1, "labels": [0, 1]}, "one for each of the 6 probe inputs"),
    ],
)
def test_what_could_never_work_is_refused_at_once(probe, options, match):
    with pytest.raises(KernelInputError, match=match):
        NTKHook(f, probe, **options)
