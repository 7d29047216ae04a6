"""Cases that every kernel implementation must get right; a known gap is a field of its case."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ntk_train import linen_fn


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A function, its parameters and two batches of different sizes.

    Attributes:
      name: what is special about it.
      make: from a dtype to (f, params, x1, x2).
      batched: whether examples are independent.
      forward: whether f has forward-mode derivatives.
      gaps: implementations that cannot do it, and the error that says so.
    """

    name: str
    make: Callable
    batched: bool = True
    forward: bool = True
    gaps: dict[str, type[Exception]] = dataclasses.field(default_factory=dict)


BANK: list[Case] = []
N, M = 4, 3


def case(**fields):
    """Adds a function from (dtype, normal) to (f, params, shape of one input) to the bank."""

    def add(make):
        def build(dtype):
            rng = np.random.default_rng(0)
            normal = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
            f, params, x = make(dtype, normal)
            if isinstance(x, tuple):
                x = normal(N, *x), normal(M, *x)
            return f, params, *x

        BANK.append(Case(make.__name__, build, **fields))
        return make

    return add


def linen(model, shape, dtype, normal, train=None, **kwargs):
    """A Linen model with random parameters of the given dtype, and random running statistics."""
    call = {} if train is None else {"train": train}
    variables = model.init(jax.random.key(0), jnp.ones((2, *shape), dtype), **call)
    cast = lambda tree: jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
    state = cast({k: v for k, v in variables.items() if k != "params"})
    state = jax.tree.map(lambda leaf: leaf + abs(normal(*leaf.shape)), state)
    f = linen_fn(model, **call, **kwargs)
    return (lambda params, x: f(params, x, state)), cast(variables["params"]), shape


@case()
def one_matrix(dtype, normal):
    return (lambda w, x: x @ w), normal(5, 3), (5,)


@case()
def fully_connected(dtype, normal):
    params = {"w": [normal(5, 8), normal(8, 3)], "b": [normal(8), normal(3)]}

    def f(params, x):
        h = jnp.tanh(x @ params["w"][0] + params["b"][0])
        return h @ params["w"][1] + params["b"][1]

    return f, params, (5,)


@case()
def scalar_output(dtype, normal):
    return (lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]), {"w": normal(5, 7), "v": normal(7)}, (5,)


@case()
def transposed_scaled_reshaped_weights(dtype, normal):
    params = (normal(8, 5), normal(8, 8), normal(24))
    f = lambda p, x: jnp.sin(jnp.sin(x @ p[0].T) @ (0.3 * p[1])) @ p[2].reshape(8, 3)
    return f, params, (5,)


@case()
def weight_used_twice(dtype, normal):
    return (lambda w, x: jnp.tanh(jnp.tanh(x @ w) @ w.T)), normal(5, 6), (5,)


@case()
def nonlinear_in_a_parameter(dtype, normal):
    f = lambda p, x: x @ jax.nn.softplus(p["w"]) / jnp.linalg.norm(p["w"]) * jnp.exp(p["s"])
    return f, {"w": normal(5, 3), "s": normal()}, (5,)


@case()
def parameters_that_are_not_used_or_not_floating(dtype, normal):
    params = {"w": normal(5, 3), "unused": normal(4), "count": jnp.arange(3), "on": True}
    return (lambda p, x: jnp.sin(x @ p["w"]) * p["count"]), params, (5,)


@case()
def dict_of_outputs(dtype, normal):
    params = {"w": normal(5, 6), "v": normal(6, 2)}

    def f(params, x):
        h = jnp.tanh(x @ params["w"])
        return {"logits": h @ params["v"], "grid": h.reshape(-1, 2, 3)}

    return f, params, (5,)


@case()
def pytree_of_inputs(dtype, normal):
    f = lambda w, x: {"y": jnp.sin(x["a"] @ w) * x["b"][0][:, None]}
    inputs = lambda n: {"a": normal(n, 5), "b": (normal(n),)}
    return f, normal(5, 3), [inputs(N), inputs(M)]


@case()
def integer_inputs(dtype, normal):
    params = {"table": normal(11, 4), "w": normal(4, 3)}
    f = lambda p, x: jnp.tanh(p["table"][x]).mean(axis=1) @ p["w"]
    ids = np.random.default_rng(1).integers(0, 11, size=(N + M, 6))
    return f, params, [jnp.asarray(ids[:N]), jnp.asarray(ids[N:])]


@case()
def outputs_with_positions(dtype, normal):
    conv = lambda w, x: jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return (lambda w, x: jnp.tanh(conv(w, x))), normal(3, 3, 2, 2), (3, 3, 2)


@case()
def recurrence(dtype, normal):
    params = {"u": normal(2, 4), "w": normal(4, 4)}

    def f(params, x):
        step = lambda h, x_t: (jnp.tanh(x_t @ params["u"] + h @ params["w"]), None)
        return jax.lax.scan(step, jnp.zeros((len(x), 4), x.dtype), x.swapaxes(0, 1))[0]

    return f, params, (5, 2)


@case()
def remat_and_jit(dtype, normal):
    layer = jax.checkpoint(jax.jit(lambda w, x: jnp.tanh(x @ w)))
    return (lambda p, x: layer(p[1], layer(p[0], x))), (normal(5, 6), normal(6, 3)), (5,)


@case(batched=False)  # the branch depends on the whole batch
def branches(dtype, normal):
    f = lambda w, x: jax.lax.cond(x.sum() > 0, lambda: x @ w, lambda: jnp.sin(x @ w))
    return f, normal(5, 3), (5,)


@case(forward=False, gaps={"ntk_vector_products": TypeError})
def reverse_mode_only(dtype, normal):
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))
    return (lambda w, x: double(jnp.sin(x @ w))), normal(5, 3), (5,)


class _ConvNet(nn.Module):
    norm: str

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), param_dtype=x.dtype)(x)
        if self.norm == "batch":
            x = nn.BatchNorm(not train, param_dtype=x.dtype)(x)
        elif self.norm == "group":
            x = nn.GroupNorm(num_groups=2, param_dtype=x.dtype)(x)
        x = nn.avg_pool(nn.gelu(x), (2, 2), (2, 2))
        return nn.Dense(3, param_dtype=x.dtype)(x.reshape(len(x), -1))


@case()
def convolutional_network_with_group_norm(dtype, normal):
    return linen(_ConvNet("group"), (4, 4, 2), dtype, normal, train=False)


@case()
def batch_norm_in_eval_mode(dtype, normal):
    return linen(_ConvNet("batch"), (4, 4, 2), dtype, normal, train=False)


@case(batched=False)
def batch_norm_in_train_mode(dtype, normal):
    model = _ConvNet("batch")
    return linen(model, (4, 4, 2), dtype, normal, train=True, mutable=["batch_stats"])


@case()
def attention(dtype, normal):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.LayerNorm(param_dtype=x.dtype)(x)
            x += nn.MultiHeadDotProductAttention(num_heads=2, param_dtype=x.dtype)(h)
            return nn.Dense(2, param_dtype=x.dtype)(x.mean(axis=1))

    return linen(Block(), (3, 4), dtype, normal)
