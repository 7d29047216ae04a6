"""Flax models as functions of their parameters: in eval mode, at the state that they are given."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import KernelInputError, NTKHook, linen_fn, nnx_fn, ntk

nnx = pytest.importorskip("flax.nnx")


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(jnp.tanh(self.norm(self.hidden(x)))))


X = jnp.sin(jnp.arange(15, dtype=jnp.float32)).reshape(5, 3)


def test_it_is_the_model_in_eval_mode_and_leaves_the_model_alone():
    model = Net(nnx.Rngs(0))
    f = nnx_fn(model)
    assert not model.norm.use_running_average
    assert not model.dropout.deterministic
    parts = f.split(model)
    found = f(parts["params"], X, parts["model_state"])
    np.testing.assert_array_equal(f(parts["params"], X), found)
    assert not np.allclose(model(X), found), "batch statistics and dropout"


def test_the_state_is_that_of_the_step():
    model = Net(nnx.Rngs(0))
    f = nnx_fn(model)
    before = f(f.split(model)["params"], X)
    for _ in range(3):
        model(5 + 3 * X)  # moves the running statistics, no parameter
    parts = f.split(model)
    np.testing.assert_array_equal(f(parts["params"], X), before)
    moved = f(parts["params"], X, parts["model_state"])
    assert not np.allclose(moved, before)
    model.eval()
    np.testing.assert_array_equal(moved, model(X))


def test_the_hook_differentiates_the_parameters_alone():
    model = Net(nnx.Rngs(0))
    f = nnx_fn(model)
    hook = NTKHook(f, X, every_steps=1)
    hook(0, **f.split(model))
    hook.close()
    assert hook.failures == 0
    assert hook.convention.num_parameters == 3 * 4 + 4 + 2 * 4 + 4 * 2 + 2
    assert hook.convention.function == "Net(eval mode)"

    model.eval()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    g = lambda params, x: nnx.merge(graph, params, rest)(x)
    jacobian = jax.jit(jax.jacobian(lambda params: g(params, X)))(params)
    rows = [leaf.reshape(10, -1) for leaf in jax.tree.leaves(jacobian)]
    rows = np.concatenate(rows, axis=1)
    kernel = (rows @ rows.T).reshape(5, 2, 5, 2)
    np.testing.assert_allclose(hook.latest.kernel, np.einsum("nomo->nm", kernel), rtol=1e-4)


class Drawing(nnx.Module):
    """As Flax's own MNIST example: the generators are an argument of the call."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)
        self.out = nnx.Linear(4, 2, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def hide(self, x, rngs):
        self.calls[...] += 1
        return self.dropout(jnp.tanh(self.hidden(x)), rngs=rngs)

    def __call__(self, x, rngs, scale=1.0):
        return scale * self.out(self.hide(x, rngs))


def assert_measured(f, hook_kwargs, want, steps=1):
    """The hook's kernel is that of `want`, a function of the parameters."""
    hook = NTKHook(f, X, every_steps=1)
    for step in range(steps):
        hook(step, **hook_kwargs)
    hook.close()
    assert hook.failures == 0
    kernel = ntk(want, hook_kwargs["params"], X, outputs="trace")
    np.testing.assert_allclose(hook.latest.kernel, kernel, rtol=1e-4)
    return hook


def test_further_arguments_of_an_nnx_call_are_given_once():
    model, rngs = Drawing(nnx.Rngs(0)), nnx.Rngs(1)
    f = nnx_fn(model, rngs, scale=2.0)
    out = lambda p, h: h @ p["kernel"] + p["bias"]
    hidden = lambda p, x: jnp.tanh(out(p["hidden"], x))
    hook = assert_measured(f, f.split(model), lambda p, x: 2 * out(p["out"], hidden(p, x)))
    assert hook.convention.function == "Drawing(Rngs, scale=2.0, eval mode)"
    part = nnx_fn(model, call=lambda model, x: model.hide(x, rngs))
    assert_measured(part, part.split(model), hidden)


def test_generators_of_a_call_are_those_of_the_start_each_time():
    model, rngs = Drawing(nnx.Rngs(0)), nnx.Rngs(1)

    def in_train_mode(model, x, rngs):
        model.train()
        return model(x, rngs)

    f = nnx_fn(model, rngs, call=in_train_mode)
    params = f.split(model)["params"]
    first = jax.jit(f)(params, X)
    rngs.dropout()  # the loop's own generators move on
    np.testing.assert_array_equal(jax.jit(lambda p, x: f(p, x))(params, X), first)
    assert not np.allclose(nnx_fn(model, rngs)(params, X), first)
    assert str(f).startswith("Drawing(call=test_generators")


def test_what_a_call_changes_of_an_nnx_model_is_dropped():
    model, rngs = Drawing(nnx.Rngs(0)), nnx.Rngs(1)
    f = nnx_fn(model, rngs)
    parts = f.split(model)
    assert_measured(f, parts, lambda p, x: f(p, x), steps=2)
    assert int(parts["model_state"]["calls"][...]) == 0
    assert int(model.calls[...]) == 0
    model(X, rngs)
    assert int(f.split(model)["model_state"]["calls"][...]) == 1


class Sown(nnx.Intermediate):
    """A user's own kind."""


class Sowing(Net):
    def __call__(self, x):
        self.sow(nnx.Intermediate, "inputs", x)
        self.sow(Sown, "squares", x**2)
        return super().__call__(x)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow")
@pytest.mark.parametrize("called_before", [False, True])
def test_what_a_model_sows_grows_and_is_no_state_of_it(called_before, caplog):
    model = Sowing(nnx.Rngs(0))
    if called_before:
        model(X)
    f = nnx_fn(model)
    hook = NTKHook(f, X, every_steps=1)
    for step in range(3):
        model(X)
        assert hook(step, **f.split(model))
    hook.close()
    assert hook.failures == 0
    assert not caplog.records  # nor compiled anew
    model.eval()
    parts = f.split(model)
    found = f(parts["params"], X, parts["model_state"])
    np.testing.assert_array_equal(found, model(X))
    _, params, _, whole = nnx.split(model, nnx.Param, nnx.RngState, ...)
    np.testing.assert_array_equal(f(params, X, whole), found)  # split by hand


def test_layers_of_an_nnx_model_are_its_modules():
    model = Net(nnx.Rngs(0))
    f = nnx_fn(model)
    hook = NTKHook(f, X, every_steps=1, per_layer=True, param_filter=lambda p: p != "norm/bias")
    hook(0, **f.split(model))
    assert set(hook.latest.layers) == {"hidden", "norm", "out"}
    assert hook.convention.num_parameters == 3 * 4 + 4 + 4 + 4 * 2 + 2


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x, y=None, train=False):
        init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
        zeros = nn.with_partitioning(nn.initializers.zeros, (None,))
        x = nn.Dropout(0.5, deterministic=not train)(nn.Dense(4, True, None, kernel_init=init)(x))
        return nn.Dense(2, kernel_init=init, bias_init=zeros)(jnp.tanh(x if y is None else x + y))


def test_layers_of_a_boxed_linen_model_are_its_modules():
    params = Boxed().init(jax.random.key(0), X)["params"]
    assert isinstance(params["Dense_0"]["kernel"], nn.Partitioned)
    parts = ntk(linen_fn(Boxed()), params, X, outputs="trace", per_layer=True)
    unboxed = ntk(linen_fn(Boxed()), nn.unbox(params), X, outputs="trace", per_layer=True)
    assert set(parts) == {"Dense_0", "Dense_1"}
    for name, part in parts.items():
        np.testing.assert_allclose(part, unboxed[name], rtol=1e-6)


def test_further_arguments_of_a_linen_call():
    model, y = Boxed(), jnp.ones(4)
    params = nn.unbox(model.init(jax.random.key(0), X)["params"])
    positional = linen_fn(model, y)
    assert_measured(positional, {"params": params}, lambda p, x: model.apply({"params": p}, x, y))
    assert str(positional) == "Boxed(float64[4])"
    both = lambda module, x: module(x["x"], x["y"])
    by_method = linen_fn(model, method=both)
    got = by_method(params, {"x": X, "y": y})
    np.testing.assert_array_equal(got, positional(params, X))
    assert "<lambda>" in str(by_method)
    assert " at 0x" not in str(by_method)  # which would differ from run to run
    key = jax.random.key(3)
    drawing = linen_fn(model, train=True, rngs={"dropout": key}, mutable=[])
    want = model.apply({"params": params}, X, train=True, rngs={"dropout": key})
    np.testing.assert_array_equal(drawing(params, X), want)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: nnx_fn(Net), "model is the class Net"),
        (lambda: nnx_fn(Boxed()), "of type Boxed; expected a Flax NNX module"),
        (lambda: linen_fn(Boxed), "model is the class Boxed"),
        (lambda: linen_fn(Net(nnx.Rngs(0))), "of type Net; expected a Flax Linen module"),
    ],
)
def test_what_is_no_model_is_refused_at_once(make, match):
    with pytest.raises(KernelInputError, match=match):
        make()
