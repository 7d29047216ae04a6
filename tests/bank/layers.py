"""Where a parameter can stand in a layer, and in how many ways it can be used."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.bank.case import Case, M, N, case_in, linen

LAYERS: list[Case] = []
case = case_in(LAYERS)


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
def embedding_of_repeated_and_missing_tokens(dtype, normal):
    params = {"table": normal(5, 4), "by_column": normal(3, 6), "w": normal(4, 3)}

    def f(params, x):
        h = params["table"].at[x].get(mode="fill", fill_value=0.5)  # no row for 5 and above
        columns = jnp.take(params["by_column"], x % 6, axis=1)  # [3, N, 6]
        return jnp.tanh(h).mean(axis=1) @ params["w"] + columns.sum(axis=2).T

    ids = np.random.default_rng(1).integers(0, 8, size=(N + M, 6))
    return f, params, [jnp.asarray(ids[:N]), jnp.asarray(ids[N:])]


@case()
def embedding_with_clipped_indices(dtype, normal):
    f = lambda table, x: jnp.sin(table.at[x].get(mode="clip").sum(axis=1))
    ids = np.random.default_rng(1).integers(0, 8, size=(N + M, 6))
    return f, normal(5, 4), [jnp.asarray(ids[:N]), jnp.asarray(ids[N:])]


@case()
def embedding_of_one_example_under_vmap(dtype, normal):
    def of_one(params, x):
        h = params["table"][x[0]] * params["by_column"][:, x[1]]  # rows of 5, columns of 6
        return jnp.tanh(h) @ params["w"] + jnp.tanh(params["table"][x[2]])[:2]

    params = {"table": normal(5, 4), "by_column": normal(4, 6), "w": normal(4, 2)}
    ids = np.random.default_rng(1).integers(-2, 8, size=(N + M, 3))
    return jax.vmap(of_one, (None, 0)), params, [jnp.asarray(ids[:N]), jnp.asarray(ids[N:])]


@case()
def tied_embedding_and_head(dtype, normal):
    params = {"table": normal(7, 4), "w": normal(4, 4)}
    f = lambda p, x: jnp.tanh(p["table"][x].mean(axis=1) @ p["w"]) @ p["table"].T
    ids = np.random.default_rng(1).integers(0, 7, size=(N + M, 3))
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


@case()
def recurrence_with_outputs_at_each_step(dtype, normal):
    params = {"u": normal(2, 4), "w": normal(4, 4), "b": normal(4), "v": normal(4, 2)}

    def f(params, x):
        def step(h, x_t):
            h = jnp.tanh(x_t @ params["u"] + h @ params["w"] + params["b"])
            return h, h @ params["v"]

        _, ys = jax.lax.scan(step, jnp.zeros((len(x), 4), x.dtype), x.swapaxes(0, 1))
        return ys.swapaxes(0, 1)

    return f, params, (3, 2)


@case()
def scan_over_layers_with_remat(dtype, normal):
    params = {"layers": {"w": normal(3, 5, 5) / 2, "b": normal(3, 5)}, "out": normal(5, 2)}

    def f(params, x):
        layer = lambda h, p: (jnp.tanh(h @ p["w"] + p["b"]), None)
        return jax.lax.scan(jax.checkpoint(layer), x, params["layers"])[0] @ params["out"]

    return f, params, (5,)


@case()
def scan_in_a_scan(dtype, normal):
    params = {"w": normal(2, 4, 4) / 2, "u": normal(4, 2), "i": normal(2, 4)}

    def f(params, x):
        def layer(h, w):
            step = lambda g, x_t: (jnp.tanh(g @ w + x_t @ params["u"].T), None)
            return jax.lax.scan(step, h, x.swapaxes(0, 1), reverse=True)[0], h.sum(axis=1)

        h, sums = jax.lax.scan(layer, x[:, 0] @ params["i"], 2 * params["w"])
        return h * sums.sum(axis=0)[:, None]

    return f, params, (3, 2)


@case()
def slices_of_stacked_and_fused_weights(dtype, normal):
    params = {"w": normal(3, 6, 6), "qk": normal(6, 6), "split": normal(6, 6), "u": normal(6, 2)}

    def f(params, x):
        for i in range(3):
            x = jnp.tanh(x @ params["w"][i])
        q, k = jnp.split(x @ params["qk"], 2, axis=-1)
        left, right = jnp.split(params["split"], 2, axis=1)
        first, second = params["u"][:3], params["u"][3:]
        return (q * k) @ first + (x @ left) @ second + (x @ right) @ second

    return f, params, (6,)


@case()
def stacked_weights_one_after_the_other(dtype, normal):
    def f(params, x):
        for w in params["w"]:
            x = jnp.tanh(x @ w)
        left, right = jnp.unstack(params["pair"], axis=1)
        return (x @ left) * jnp.sin(x @ right)

    return f, {"w": normal(3, 6, 6), "pair": normal(6, 2, 2)}, (6,)


@case()
def overlapping_slices(dtype, normal):
    return (lambda w, x: jnp.tanh(x @ w[:5]) @ w[1:]), normal(6, 5), (5,)


@case()
def one_layer_called_several_times(dtype, normal):
    f = lambda w, x: jnp.sin(jnp.sin(jnp.sin(x @ w) @ w) @ w)
    return f, normal(5, 5), (5,)


@case()
def loop_with_a_counter(dtype, normal):
    step = lambda w, x: lambda i, h: jnp.sin(h @ w) + i * x
    f = lambda w, x: jax.lax.fori_loop(0, 3, step(w, x), x)
    return f, normal(5, 5), (5,)


@case()
def products_in_every_arrangement(dtype, normal):
    params = [normal(3, 4, 2), normal(2, 4), normal(3, 2, 5), normal(2, 3, 5, 2)]

    def f(params, x):  # x [N, 4, 2]
        h = jnp.einsum("nij,kij->nk", x, params[0])  # two contracted axes
        h = jnp.einsum("nij,ji->nij", x, params[1]).sum(axis=1) + h[:, :2]
        h = jnp.einsum("nj,kjl->knl", h, params[2])  # the weight's own axes around
        return jnp.einsum("knl,mklq->nkmq", h, params[3])  # a batched axis

    return f, params, (4, 2)


def _convolution(**options):
    def convolve(w, x):
        spatial = "HWD"[: x.ndim - 2]
        layout = options.get("layout", (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"))
        return jax.lax.conv_general_dilated(
            x,
            w,
            options.get("strides", (1,) * (x.ndim - 2)),
            options.get("padding", "SAME"),
            lhs_dilation=options.get("x_dilation"),
            rhs_dilation=options.get("w_dilation"),
            dimension_numbers=layout,
            feature_group_count=options.get("groups", 1),
        )

    return lambda w, x: jnp.tanh(convolve(w, x)).sum(axis=tuple(range(1, x.ndim - 1)))


@case()
def convolution_with_strides_and_both_dilations(dtype, normal):
    f = _convolution(
        strides=(2, 1), padding=((2, 1), (-1, 3)), x_dilation=(1, 3), w_dilation=(2, 1)
    )
    return f, normal(3, 2, 2, 3), (5, 4, 2)


@case()
def convolution_in_groups(dtype, normal):
    return _convolution(groups=2, padding="VALID"), normal(3, 3, 2, 6), (4, 4, 4)


@case()
def depthwise_convolution(dtype, normal):
    return _convolution(groups=4), normal(3, 3, 1, 8), (3, 3, 4)


@case()
def convolution_of_sequences_channels_first(dtype, normal):
    f = _convolution(layout=("NCH", "OIH", "NCH"), padding=((2, 0),))
    g = lambda w, x: f(w, x.swapaxes(1, 2)).reshape(len(x), -1)
    return g, normal(3, 2, 3), (6, 2)


@case()
def convolution_of_volumes(dtype, normal):
    return _convolution(padding="VALID"), normal(2, 2, 2, 1, 2), (3, 3, 3, 1)


@case()
def transposed_convolution(dtype, normal):
    model = nn.ConvTranspose(2, (3, 3), (2, 2), param_dtype=dtype)
    return linen(model, (3, 3, 2), dtype, normal)


@case()
def transposed_convolution_in_groups_of_uneven_taps(dtype, normal):
    f = _convolution(
        strides=(2, 1),
        padding=((3, 0), (-1, 3)),
        lhs_dilation=(3, 2),
        rhs_dilation=(1, 2),
        groups=2,
    )
    return f, normal(2, 3, 1, 4), (3, 3, 2)


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


@case()
def lstm(dtype, normal):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            cell = nn.OptimizedLSTMCell(3, param_dtype=x.dtype)
            return nn.Dense(2, param_dtype=x.dtype)(nn.RNN(cell)(x)[:, -1])

    return linen(Net(), (3, 2), dtype, normal)
