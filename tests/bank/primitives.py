"""One case for each linear primitive of JAX: what the derivative in a parameter can pass.

    f(params, x) = tanh([x op(weight), op(sin(x hidden)), meets(met, x)]) mixed to two outputs

A weight passes through the primitive before it meets data, an activation passes through it on its
way to the outputs, and where it has two operands a weight meets data in it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.bank.case import Case, case_in

PRIMITIVES: list[Case] = []
SIZE = 6  # of one input


def case(shape=(4, 3), meets=None, met=(4, 3), **fields):
    """Adds a function from an array of that shape to arrays as a case of its name.

    Arguments:
      shape: what it takes.
      meets: from a weight of shape `met` and one input [6] to arrays.
      met: the weight's shape.
      **fields: of the case.
    """

    def add(op):
        def make(dtype, normal):
            params = {"weight": normal(*shape), "hidden": normal(SIZE, math.prod(shape)) / 2}
            if meets is not None:
                params["met"] = normal(*met)

            def of_one(params, x):
                weights = jax.tree.map(jnp.atleast_1d, op(params["weight"]))
                views = jax.tree.map(lambda w: jnp.tensordot(x[: len(w)], w, 1), weights)
                hidden = op(jnp.sin(x @ params["hidden"]).reshape(shape))
                features = [views, hidden]
                if meets is not None:
                    features.append(meets(params["met"], x))
                flat = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(features)])
                mix = jnp.cos(jnp.arange(2.0 * flat.size)).reshape(2, -1)
                return mix.astype(dtype) @ jnp.tanh(flat / 2).astype(dtype)

            return jax.vmap(of_one, (None, 0)), params, (SIZE,)

        make.__name__ = op.__name__.rstrip("_")
        case_in(PRIMITIVES)(**fields)(make)
        return op

    return add


def place(x):
    """An index from 0 to 2, by the data."""
    return jnp.argmax(x[:3])


# Arithmetic.


@case(meets=lambda w, x: x[:3] + w)
def add(h):
    return h[:, :2] + h[:, 1:]


@case(meets=lambda w, x: x[:3] - w)
def sub(h):
    return h[:, :2] - h[:, 1:]


@case(meets=lambda w, x: x[:3] * w)
def mul(h):
    return 2 * h * jnp.arange(1.0, 4).astype(h.dtype)


@case(meets=lambda w, x: w / (1 + x[:3] ** 2))
def div(h):
    return h / 2 / jnp.arange(1.0, 4).astype(h.dtype)


@case(meets=lambda w, x: -jnp.maximum(w, x[:3]))
def neg(h):
    return -h


@case(meets=lambda w, x: (w.astype("float64") * x[0]).astype(w.dtype))
def convert_element_type(h):
    return (2 * h.astype("float64")).astype(h.dtype)


@case()
def reduce_precision(h):  # to what float64 has
    return lax.reduce_precision(h, 11, 52)


@case(meets=lambda w, x: jnp.array(w, copy=True) * x[:3])
def copy(h):
    return jnp.array(h, copy=True)


@case(meets=lambda w, x: jnp.where(x[:3] > 0, w, 2 * w[::-1]))
def select_n(h):
    return jnp.where(np.arange(3) % 2, h, 3 * h[::-1])


@case(meets=lambda w, x: lax.clamp(x[:3] - 1, w[0], x[:3] + 1))
def clamp(h):
    return jnp.clip(h, -0.6, 0.6)


# Reductions.


@case(meets=lambda w, x: (w + x[:3]).sum())
def reduce_sum(h):
    return h.sum(axis=1)


@case(meets=lambda w, x: (w + x[:3]).max(axis=1))
def reduce_max(h):
    return h.max(axis=1) + h.min(axis=1)


@case(meets=lambda w, x: (1.5 + jnp.sin(w + x[:3])).prod(axis=0))
def reduce_prod(h):
    return h.prod(axis=1)


@case(meets=lambda w, x: jax.nn.logsumexp(w + x[:3], axis=0))
def logsumexp(h):
    return jax.nn.softmax(h, axis=1)


@case(meets=lambda w, x: lax.cumsum(w * x[:3]))
def cumsum(h):
    return lax.cumsum(h, axis=0) + lax.cumsum(h, axis=1, reverse=True)


@case()
def cumprod(h):
    return lax.cumprod(h, axis=0)


@case(meets=lambda w, x: lax.cummax(w * x[:3]))
def cummax(h):
    return lax.cummax(h, axis=0)


@case(meets=lambda w, x: lax.cumlogsumexp(w * x[:3]))
def cumlogsumexp(h):
    return lax.cumlogsumexp(h, axis=1, reverse=True)


# Shapes.


@case(meets=lambda w, x: jnp.broadcast_to(w, (2, 4, 3)) * x[:2, None, None])
def broadcast_in_dim(h):
    return jnp.broadcast_to(h[:, None], (4, 2, 3))


@case(meets=lambda w, x: w.reshape(2, 6) @ x)
def reshape(h):
    return h.reshape(6, 2)


@case(meets=lambda w, x: w.T @ x[:4])
def transpose(h):
    return h.T


@case(shape=(4, 1, 3), met=(1, 3, 1), meets=lambda w, x: w.squeeze((0, 2)) @ x[:3])
def squeeze(h):
    return h.squeeze(1)


@case(meets=lambda w, x: jnp.expand_dims(w, (0, 2)) @ x[:3])
def expand_dims(h):
    return jnp.expand_dims(h, (1, 3))


@case(meets=lambda w, x: jnp.concatenate([w[0], x, w[1] * x[:3]]))
def concatenate(h):
    return jnp.concatenate([h, 2 * h[:1]])


@case(meets=lambda w, x: lax.pad(w * x[:3], x[3] * w[0, 0], [(1, 0, 0), (0, -1, 2)]))
def pad(h):  # by an element of its own too
    return lax.pad(h, h[0, 0], [(0, -1, 1), (-1, 2, 0)])


@case(meets=lambda w, x: (w * x[:3])[::2])
def slice_(h):
    return h[1:, ::2]


@case(meets=lambda w, x: jnp.concatenate(jnp.split(w, 2)[::-1]) @ x[:3])
def split(h):
    left, right = jnp.split(h, [1], axis=1)
    return left * right


@case(meets=lambda w, x: w[::-1] @ x[:3])
def rev(h):
    return h[::-1, ::-1]


@case(meets=lambda w, x: jnp.stack([w[0], x[:3], w[1]]))
def stack(h):
    return jnp.stack([h[0], 2 * h[3]], axis=1)


@case(meets=lambda w, x: jnp.tile(w, (1, 2)) @ x)
def tile(h):
    return jnp.tile(h, (1, 2))


@case()
def unstack(h):
    first, *_, last = jnp.unstack(h)
    return first * last


# Indices.


@case(meets=lambda w, x: lax.dynamic_slice(w, (place(x), 0), (2, 3)))
def dynamic_slice(h):
    return lax.dynamic_slice(h, (jnp.int32(1), jnp.int32(7)), (2, 2))  # clamped to column 1


@case(
    meets=lambda w, x: (
        lax.dynamic_update_slice(jnp.outer(x, x), w * x[:3], (place(x), 2)),
        lax.dynamic_update_slice(w, jnp.outer(x[:2], x[:2]), (place(x), 1)),
    )
)
def dynamic_update_slice(h):
    return lax.dynamic_update_slice(h, 2 * h[:2, :2], (jnp.int32(1), jnp.int32(1)))


@case_in(PRIMITIVES)()
def dynamic_slices_and_updates_of_a_batch(dtype, normal):  # under vmap they are gather and scatter
    def f(params, x):
        h = jnp.sin(x @ params["first"])
        h = lax.dynamic_update_slice_in_dim(h, 2 * h[:, :2], jnp.int32(1), axis=1)
        w = lax.dynamic_slice_in_dim(params["second"], jnp.int32(1), 3)
        return jnp.tanh(lax.dynamic_slice_in_dim(h, jnp.int32(1), 3, axis=1) @ w)

    return f, {"first": normal(SIZE, 5) / 2, "second": normal(5, 2)}, (SIZE,)


@case(meets=lambda w, x: (w[jnp.argsort(x[:4])], w[place(x), np.array([2, 0])]))
def gather(h):
    return h[np.array([0, 3, 0]), np.array([2, 1, 2])]


@case(meets=lambda w, x: jnp.take_along_axis(w, jnp.argsort(x[:4])[:, None] % 3, axis=1))
def gather_with_batch_dimensions(h):
    return jnp.take_along_axis(h, np.array([[2, 0], [1, 1], [0, 2], [0, 0]]), axis=1)


@case(meets=lambda w, x: jnp.outer(x, x[:3]).at[place(x) + np.array([0, 3])].set(w[:2]))
def scatter(h):
    return h.at[np.array([0, 2])].set(2 * h[1:3])


@case(meets=lambda w, x: (w.at[place(x), 1].add(x[0]), jnp.outer(x, x[:3]).at[place(x)].add(w[0])))
def scatter_add(h):
    return h.at[np.array([0, 2, 0])].add(2 * h[1:])


@case(meets=lambda w, x: jnp.outer(x, x[:3]).at[place(x)].subtract(w[0]))
def scatter_sub(h):
    return h.at[np.array([0, 2, 0])].subtract(2 * h[1:])


@case(meets=lambda w, x: w.at[place(x)].multiply(x[:3]))
def scatter_mul(h):
    return h.at[np.array([0, 2])].multiply(np.array([2.0, 3, 4], h.dtype), unique_indices=True)


@case(meets=lambda w, x: jax.ops.segment_sum(w, jnp.argsort(x[:4]) // 2, 2) @ x[:3])
def segment_sum(h):
    return jax.ops.segment_sum(h, np.array([1, 0, 1, 1]), 2)


@case(meets=lambda w, x: jnp.sort(w * x[:3], axis=0))
def sort(h):
    keys, values = lax.sort((h, 2 * h[::-1]), num_keys=1)
    return keys * values


@case(meets=lambda w, x: lax.top_k(w * x[:3], 2)[0])
def top_k(h):
    return lax.top_k(h, 2)[0]


# Windows.


def window(reduce, initial, size, strides, padding, **dilations):
    return lambda h: lax.reduce_window(h, initial, reduce, size, strides, padding, **dilations)


_sums = window(lax.add, 0.0, (2, 2), (1, 2), ((1, 0), (1, 1)), window_dilation=(2, 1))
_maxima = window(lax.max, -jnp.inf, (2, 2), (1, 2), ((1, 0), (0, 0)))


@case(meets=lambda w, x: _sums(w * x[:3]))
def reduce_window_sum(h):
    return _sums(h)


@case(meets=lambda w, x: _maxima(w * x[:3]))
def reduce_window_max(h):  # select_and_gather_add forwards, select_and_scatter_add backwards
    return _maxima(h)


@case()
def gradient_of_reduce_window_max(h):
    return jax.grad(lambda h: (_maxima(h) ** 2).sum())(h)


# Products.


@case(
    shape=(2, 3, 2),
    met=(2, 3, 2),
    meets=lambda w, x: (
        jnp.einsum("rab,rta->rtb", w, x.reshape(2, 1, 3)),
        jnp.einsum("ta,rab->rbt", x.reshape(2, 3), w),
    ),
)
def dot_general(h):
    constant = np.array([[1, 2, 3], [0, 1, 4]], h.dtype)
    return jnp.einsum("rab,rac->rbc", h, jnp.sin(h[::-1])), jnp.einsum("rab,bc->rca", h, constant)


@case(
    meets=lambda w, x: lax.dot(w, jnp.outer(x[:3], x), preferred_element_type="float64").astype(
        w.dtype
    )
)
def dot_general_with_a_wider_result(h):
    return lax.dot(h.T, h, preferred_element_type="float64").astype(h.dtype)


@case(
    shape=(1, 2, 4),
    met=(2, 2, 3),
    meets=lambda w, x: (
        lax.conv_general_dilated(x.reshape(1, 2, 3), w, (1,), ((1, -1),), (2,)),
        lax.conv_general_dilated(w, x.reshape(1, 2, 3), (1,), "SAME"),
        lax.conv_general_dilated(x.reshape(2, 1, 3), w[:, :1], (1,), "SAME", batch_group_count=2),
    ),
)
def conv_general_dilated(h):  # convolved by and with itself too
    taps = np.arange(6.0).reshape(1, 2, 3).astype(h.dtype)
    return (
        lax.conv_general_dilated(h, taps, (1,), "SAME"),
        lax.conv_general_dilated(np.ones((1, 2, 6), h.dtype), jnp.sin(h), (2,), "SAME"),
        lax.conv_general_dilated(h, jnp.cos(h), (1,), "SAME"),
    )


@case(meets=lambda w, x: jnp.polyval(w, x[:3]))
def polyval(h):
    return jnp.polyval(h, 0.5)


# Linear algebra, of matrices near the identity.


def _near_identity(h):
    return jnp.eye(3, dtype=h.dtype) + h @ h.T / 20


def _diagonal_and(h):
    return 3 * jnp.eye(3, dtype=h.dtype) + h


@case(
    shape=(3, 3),
    met=(3, 3),
    meets=lambda w, x: (
        lax.linalg.triangular_solve(_diagonal_and(w), jnp.outer(x[:3], x), left_side=True),
        lax.linalg.triangular_solve(_diagonal_and(jnp.outer(x[:3], x[:3])), w, lower=True),
    ),
)
def triangular_solve(h):
    return lax.linalg.triangular_solve(_diagonal_and(h), h, lower=True, transpose_a=True)


@case(met=(2, 3), meets=lambda w, x: lax.linalg.tridiagonal_solve(x[:3], 4 + w[0], x[3:], w.T))
def tridiagonal_solve(h):
    return lax.linalg.tridiagonal_solve(h[0], 4 + h[1], h[2], h[3][:, None])


@case(
    shape=(3, 3),
    met=(3, 3),
    meets=lambda w, x: (
        jnp.linalg.solve(_diagonal_and(w), x[:3]),
        jnp.linalg.solve(_near_identity(x[:3, None]), w),
    ),
)
def custom_linear_solve(h):
    return jnp.linalg.solve(_near_identity(h), h)


@case(shape=(3, 3))
def cholesky(h):
    return jnp.linalg.cholesky(_near_identity(h))


@case(shape=(3, 3))
def eigh(h):
    values, vectors = jnp.linalg.eigh(h + h.T + jnp.diag(jnp.arange(0, 30, 10, h.dtype)))
    return values / 10, vectors**2


@case(shape=(3, 3))
def svd(h):
    return jnp.linalg.svd(h / 3 + jnp.diag(jnp.arange(3, 12, 3, h.dtype)), compute_uv=False) / 3


@case(shape=(3, 2))
def qr(h):
    q, r = jnp.linalg.qr(h / 4 + jnp.eye(3, 2, dtype=h.dtype))
    return q[:, :1], r


@case(shape=(3, 3))
def determinant_and_inverse(h):
    return jnp.linalg.slogdet(_near_identity(h))[1], jnp.linalg.inv(_near_identity(h))


# Complex numbers on the way, from real parameters to real outputs.


@case(meets=lambda w, x: lax.complex(w, x[:3] * w[::-1]).imag)
def complex_(h):
    return (lax.complex(h, h[::-1]) ** 2).real


@case(meets=lambda w, x: (w * jnp.exp(1j * x[:3])).real)
def real(h):
    return ((1 + 2j) * h).real


@case(meets=lambda w, x: (x[:4] * jnp.exp(1j * x[:4]) @ w.astype(complex)).imag)
def imag(h):
    return (h.astype(complex) * 1j).imag


@case(meets=lambda w, x: (jnp.conj(lax.complex(w, 2 * w)) * jnp.exp(1j * x[:3])).imag)
def conj(h):
    z = lax.complex(h, h[::-1])
    return (jnp.conj(z) * z[:1]).imag


@case(meets=lambda w, x: abs(lax.complex(w[0], x[:3])))
def absolute_value_of_complex(h):
    return abs(lax.complex(h[:, 0], 1 + h[:, 1] ** 2))


@case(meets=lambda w, x: jnp.fft.ifft(jnp.fft.fft(w, axis=0) * jnp.fft.fft(x[:4])[:, None]).real)
def fft(h):
    return jnp.fft.fft2(h).imag


@case(meets=lambda w, x: jnp.fft.irfft(jnp.fft.rfft(w) * jnp.fft.rfft(x[:3]), 3))
def rfft(h):
    return abs(jnp.fft.rfft(h, axis=0)[1:2]) ** 2, jnp.fft.irfft(h * (1 + 1j), axis=0)


# Control flow.


@case(meets=lambda w, x: lax.scan(lambda c, v: (jnp.sin(c * v), c + v), x[:3], w))
def scan(h):
    return lax.scan(lambda c, row: (c[::-1] + row, c * 2), 2 * h[0], h, reverse=True)


@case(meets=lambda w, x: lax.map(lambda row: row[None] @ x[:3], w))
def map_(h):
    return lax.map(lambda row: jnp.sin(row)[::-1], h)


@case(meets=lambda w, x: lax.associative_scan(jnp.add, w * x[:3]))
def associative_scan(h):
    return lax.associative_scan(jnp.multiply, h, axis=1)


@case(meets=lambda w, x: lax.fori_loop(0, 3, lambda i, c: jnp.sin(w[i] + c), x[:3]))
def fori_loop(h):
    return lax.fori_loop(1, 4, lambda i, c: c / 2 + h[i], h[0])


@case(meets=lambda w, x: lax.cond(w.sum() > 0, lambda: w @ x[:3], lambda: x[:4] * w[:, 0]))
def cond(h):
    return lax.cond(h[0, 0] > 0, lambda h: 2 * h, lambda h: h[::-1], h)


@case(meets=lambda w, x: lax.switch(jnp.argmax(w) % 3, [jnp.sin, jnp.cos, jnp.exp], w[0] * x[:3]))
def switch(h):
    return lax.switch(jnp.argmax(h) % 3, [lambda h: h, lambda h: 2 * h, lambda h: h[::-1]], h)


_NO_REVERSE_MODE = dict.fromkeys(
    ["jacobian_contraction", "ntk_vector_products", "structured", "auto"], ValueError
)


@case(gaps=_NO_REVERSE_MODE)
def while_(h):
    return lax.while_loop(lambda h: h.sum() < 10, lambda h: h + 1, h)


# Functions with derivatives or placement of their own, and calls.


@jax.custom_jvp
def _softplus(x):
    return jnp.logaddexp(x, 0)


_softplus.defjvps(lambda t, _, x: t * jax.nn.sigmoid(x))


@case(meets=lambda w, x: _softplus(w * x[:3]))
def custom_jvp_call(h):
    return _softplus(h)


@jax.custom_vjp
def _clipped_gradient(x):
    return 2 * x


_clipped_gradient.defvjp(lambda x: (2 * x, None), lambda _, g: (g / 3,))


@case(
    forward=False,
    gaps={"ntk_vector_products": TypeError},
    meets=lambda w, x: _clipped_gradient(w * x[:3]),
)
def custom_vjp_call(h):
    return _clipped_gradient(h)


@case(meets=lambda w, x: jax.jit(lambda w, x: w @ x)(w, x[:3]))
def jit(h):
    return jax.jit(jnp.sin)(2 * h)


@case(meets=lambda w, x: jax.checkpoint(lambda w, x: jnp.sin(w @ x))(w, x[:3]))
def remat(h):
    return jax.checkpoint(lambda h: jnp.sin(jnp.sin(h)))(h)


@case(meets=lambda w, x: lax.stop_gradient(w) * w + lax.stop_gradient(jnp.sin(w)) * x[:3])
def stop_gradient(h):
    return lax.stop_gradient(h) * h


@case(meets=lambda w, x: lax.optimization_barrier((w, x))[0] @ x[:3])
def optimization_barrier(h):
    return lax.optimization_barrier(h)


def _placed(h):
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    return lax.with_sharding_constraint(h, jax.NamedSharding(mesh, jax.P()))


@case(meets=lambda w, x: _placed(w) @ x[:3])
def sharding_constraint(h):
    return _placed(h)


@case(meets=lambda w, x: jax.device_put(w, jax.devices()[0]) @ x[:3])
def device_put(h):
    return jax.device_put(h, jax.devices()[0])


@case(meets=lambda w, x: jax.vmap(lambda w: lax.psum(w * x[:3], "rows"), axis_name="rows")(w))
def psum_over_a_vmapped_axis(h):
    return jax.vmap(lambda row: row - lax.pmean(row, "rows"), axis_name="rows")(h)


@case()
def collectives_over_a_vmapped_axis(h):
    def of_row(row):
        turned = lax.ppermute(row, "rows", [(i, (i + 1) % 4) for i in range(4)])
        return turned * lax.all_gather(row, "rows")[2]

    return jax.vmap(of_row, axis_name="rows")(h)


@case()
def shard_map(h):
    def of_shard(h):
        return h * lax.pmean(jnp.sin(h).sum(axis=0), "rows"), lax.psum(h.sum(axis=0), "rows")

    rows, everywhere = jax.P("rows"), jax.P()
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.shard_map(of_shard, mesh=mesh, in_specs=rows, out_specs=(rows, everywhere))(h)
