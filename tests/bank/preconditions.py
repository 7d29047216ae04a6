"""Programs that break one clause each of the conditions under which a shortcut is taken.

Where a shortcut's condition is written, in `planning.py`, `separator.py` and `sites.py`, each of
its clauses has a case here that comes out wrong if the clause is left out.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.bank.case import Case, M, N, case_in, linen

PRECONDITIONS: list[Case] = []
case = case_in(PRECONDITIONS)


# `identity`: the output of the layer is a term of the network's, and reaches it in no other way.


@case()
def output_uses_its_last_layer_twice(dtype, normal):
    return (lambda w, x: (lambda h: h + jnp.tanh(h))(x @ w)), normal(5, 4), (5,)


@case()
def output_adds_its_last_layer_to_itself(dtype, normal):
    return (lambda w, x: (lambda h: h + h)(x @ w)), normal(5, 4), (5,)


@case()
def bias_of_the_output_used_in_reverse_too(dtype, normal):
    params = normal(5, 4), normal(4)
    return (lambda p, x: x @ p[0] + p[1] + p[1][::-1]), params, (5,)


@case()
def bias_of_the_output_used_inside_too(dtype, normal):
    params = normal(5, 4), normal(4, 4), normal(4)
    return (lambda p, x: jnp.tanh(x @ p[0] + p[2]) @ p[1] + p[2]), params, (5,)


@case()
def last_layer_used_before_it_too(dtype, normal):
    params = normal(4, 4), normal(4)
    dense = lambda p, x: x @ p[0] + p[1]
    return (lambda p, x: dense(p, jnp.tanh(dense(p, x)))), params, (4,)


@case()
def last_norm_shared_with_an_earlier_one(dtype, normal):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            norm = nn.LayerNorm(param_dtype=dtype)
            return norm(x + nn.Dense(6, param_dtype=dtype)(jnp.tanh(norm(x))))

    return linen(Model(), (6,), dtype, normal)


@case()
def stem_and_residual_blocks_without_a_head(dtype, normal):
    params = {"stem": normal(5, 4), "bias": normal(4), "blocks": [normal(4, 4), normal(4, 4)]}

    def f(params, x):
        h = x @ params["stem"] + params["bias"]
        for w in params["blocks"]:
            h = h + jnp.tanh(h) @ w
        return h

    return f, params, (5,)


@case()
def output_is_a_layer_scaled(dtype, normal):
    return (lambda w, x: 3 * (x @ w)), normal(5, 4), (5,)


@case()
def output_is_a_layer_backwards(dtype, normal):
    return (lambda p, x: (x @ p[0])[:, ::-1] + p[1][::-1]), (normal(5, 4), normal(4)), (5,)


@case()
def output_is_a_layer_with_its_axes_exchanged(dtype, normal):
    f = lambda w, x: jnp.swapaxes((x @ w).reshape(-1, 2, 3), 1, 2)
    return f, normal(5, 6), (5,)


@case()
def output_is_a_layer_repeated(dtype, normal):
    return (
        (lambda p, x: jnp.tile(x @ p[0], 2) + jnp.repeat(p[1], 2)),
        (normal(5, 2), normal(2)),
        (5,),
    )


@case()
def output_is_one_layer_at_each_position(dtype, normal):
    return (lambda w, x: (x.reshape(-1, 2, 3) @ w).reshape(len(x), -1)), normal(3, 4), (6,)


@case()
def output_is_a_scan_of_its_last_layer(dtype, normal):
    def f(w, x):
        step = lambda h, _: (h + jnp.tanh(h), None)
        return jax.lax.scan(step, x @ w, None, length=2)[0]

    return f, normal(5, 4), (5,)


@case()
def output_is_a_convolution_of_one_pixel_that_sees_it_beside_zeros(dtype, normal):
    f = lambda w, x: jax.lax.conv_general_dilated(
        x.reshape(-1, 1, 3), w, (1,), [(0, 2)], dimension_numbers=("NHC", "HIO", "NHC")
    )
    return f, normal(2, 3, 2), (3,)


# A part of a weight that is used at several positions: in the same order, with the same sign.


@case()
def kernel_of_a_convolution_and_of_a_dilated_one(dtype, normal):
    def f(w, x):
        convolve = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=layout)
        h = jnp.tanh(convolve(x, w, (1, 1), "SAME"))
        return jnp.tanh(convolve(h, w, (1, 1), [(1, 1)] * 2, lhs_dilation=(2, 2))).sum((1, 2))

    layout = ("NHWC", "HWIO", "NHWC")
    return f, normal(2, 2, 2, 2), (2, 2, 2)


@case()
def weight_and_its_negation(dtype, normal):
    f = lambda w, x: jnp.tanh(jnp.tanh(jnp.tanh(x @ -w) @ w) @ (-2 * w))
    return f, normal(4, 4), (4,)


@case()
def convolution_whose_window_does_not_fit(dtype, normal):
    def f(params, x):
        y = jax.lax.conv_general_dilated(
            x,
            params[0],
            (1, 1),
            "VALID",
            rhs_dilation=(1, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y.sum((1, 2)) + jnp.sin(params[1]) * x[:, 0, 0, :1]

    return f, (normal(3, 2, 2, 3), normal(3)), (4, 2, 2)


# The cut: at one real variable, with labels that no axis of the output has.


@case()
def bottleneck_of_complex_numbers(dtype, normal):
    params = normal(5, 32), normal(32, 1), normal(32, 1), normal(1, 24)

    def f(params, x):
        h = jnp.tanh(x @ params[0])
        h = jnp.log(jnp.cosh(jax.lax.complex(h @ params[1], h @ params[2])))
        return jnp.real(h) @ params[3] + jnp.imag(h) @ params[3][:, ::-1]

    return f, params, (5,)


@case()
def log_cosh_of_complex_numbers_as_outputs(dtype, normal):
    def f(params, x):
        h = jnp.log(jnp.cosh(jax.lax.complex(x @ params[0], x @ params[1])))
        return jnp.concatenate([h.real, h.imag], axis=1)

    return f, (normal(5, 3), normal(5, 3)), (5,)


@case()
def inverse_fourier_transform_of_a_few_coefficients(dtype, normal):
    params = normal(5, 32), normal(32, 4), normal(32, 4)

    def f(params, x):
        h = jnp.tanh(x @ params[0])
        return jnp.fft.irfft(jax.lax.complex(h @ params[1], h @ params[2]), 24)

    return f, params, (5,)


@case()
def complex_recurrence(dtype, normal):
    params = normal(3), normal(3), normal(3, 4)

    def f(params, x):
        rate = jnp.exp(jax.lax.complex(-jnp.abs(params[0]), params[1]))
        step = lambda h, u: ((rate * h + u[:, None]), None)
        h, _ = jax.lax.scan(step, jnp.zeros((len(x), 3), rate.dtype), x.T)
        return jnp.tanh(h.real) @ params[2] + h.imag @ params[2]

    return f, params, (5,)


@case()
def complex_product_with_a_real_weight(dtype, normal):
    f = lambda w, x: jnp.real(jnp.exp(1j * (x.astype(jnp.result_type(x, jnp.complex64)) @ w)))
    return f, normal(5, 4), (5,)


@case()
def bottleneck_between_outputs_of_several_axes(dtype, normal):
    params = normal(12, 20), normal(20, 3), normal(3, 20), normal(20, 12)

    def f(params, x):
        h = jnp.tanh(jnp.tanh(x @ params[0]) @ params[1])
        return (jnp.tanh(h @ params[2]) @ params[3]).reshape(-1, 3, 4)

    return f, params, (12,)


@case()
def bottleneck_whose_weights_are_used_after_it_too(dtype, normal):
    params = normal(12, 2), normal(2, 24)

    def f(params, x):
        h = jnp.tanh(jnp.tanh(x @ params[0]) @ params[1])
        return jnp.tanh(h[:, :2] @ params[1])

    return f, params, (12,)


@case()
def bottleneck_that_a_residual_passes_by(dtype, normal):
    params = normal(12, 2), normal(2, 24), normal(12, 24)
    f = lambda p, x: jnp.tanh(jnp.tanh(x @ p[0]) @ p[1] + jnp.tanh(x @ p[2]))
    return f, params, (12,)


@case()
def bottleneck_that_meets_data(dtype, normal):
    params = normal(6, 32), normal(32, 3)

    def f(params, x):
        h = jnp.tanh(x @ params[0]) @ params[1]
        return jnp.einsum(
            "na,nab->nb",
            h,
            jnp.sin(jnp.einsum("n,b->nb", x[:, 0], jnp.arange(3 * 8.0)).reshape(-1, 3, 8)).astype(
                dtype
            ),
        )

    return f, params, (6,)


@case()
def bottleneck_of_parameters_alone(dtype, normal):
    one = lambda table, x: jnp.take(table.T, jnp.argmax(x, -1), axis=1).sum((0, 2))
    return jax.vmap(one, (None, 0)), normal(3, 1), (5, 4, 3)


# One-hot rows: an index as a place in a type that holds -1 and the size.


def _embedding(name, index_dtype, rows, low, high, **options):
    def make(dtype, normal):
        ids = np.random.default_rng(1).integers(low, high, size=(N + M, 5)).astype(index_dtype)
        f = lambda table, x: jnp.sin(jnp.take(table, x, axis=0, **options)).sum(axis=1)
        return f, normal(rows, 2), [jnp.asarray(ids[:N]), jnp.asarray(ids[N:])]

    make.__name__ = name
    case()(make)


_fill = {"mode": "fill", "fill_value": 0.0}
_embedding("embedding_by_uint8_of_256_rows", np.uint8, 256, 250, 256)
_embedding("embedding_by_uint8_of_300_rows", np.uint8, 300, 250, 256, mode="clip")
_embedding("embedding_by_uint16_out_of_range", np.uint16, 7, 3, 12, **_fill)
_embedding("embedding_by_uint32_out_of_range", np.uint32, 7, 3, 12, **_fill)
_embedding("embedding_by_uint32_clipped", np.uint32, 7, 2**32 - 9, 2**32, mode="clip")
_embedding("embedding_by_int8_before_and_after", np.int8, 7, -9, 12, **_fill)
