"""The structured kernel equals the oracle on programs whose shapes and axes are drawn at random."""

import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

from ntk_train import ntk
from ntk_train.rules import factors_of
from tests import oracle

bounded = hypothesis.settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much],
)


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def check(of_one, params, shape, seed):
    """Compares the kernels of a function of one input, mixed nonlinearly to two outputs."""

    def two_outputs(params, x):
        flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(of_one(params, x))])
        mix = jnp.cos(jnp.arange(2.0 * flat.size)).reshape(2, -1)
        return mix @ jnp.sin(flat)

    f = jax.vmap(two_outputs, (None, 0))
    x1, x2 = normal(seed + 1, (3, *shape)), normal(seed + 2, (2, *shape))
    structured = functools.partial(ntk, f, implementation="structured")
    got = jax.jit(structured, compiler_options=oracle.QUICK)(params, x1, x2)
    want = oracle.kernel(f, params, x1, x2)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-10 * max(np.abs(want).max(), 1e-300))


seeds = st.integers(0, 2**16)
sizes = st.lists(st.integers(1, 3), max_size=2)


@bounded
@hypothesis.given(st.data(), sizes, sizes, sizes, sizes, st.booleans(), seeds)
def test_products_with_any_dimension_numbers(
    data, batch, contracted, own_of_weight, own_of_data, weight_is_left, seed
):
    def operand(own):
        """Shape, and the positions of the batch and contracted axes, in an order of its own."""
        labels = [*range(len(batch) + len(contracted) + len(own))]
        order = data.draw(st.permutations(labels))
        shape = [[*batch, *contracted, *own][label] for label in order]
        places = [order.index(label) for label in labels]
        return shape, places[: len(batch)], places[len(batch) : len(batch) + len(contracted)]

    w_shape, w_batch, w_contracted = operand(own_of_weight)
    x_shape, x_batch, x_contracted = operand(own_of_data)

    def product(w, x):
        if weight_is_left:
            return lax.dot_general(w, x, ((w_contracted, x_contracted), (w_batch, x_batch)))
        return lax.dot_general(x, w, ((x_contracted, w_contracted), (x_batch, w_batch)))

    check(product, normal(seed, w_shape), x_shape, seed)


@st.composite
def convolutions(draw):
    """Shapes of data and weight, and the options of a convolution that has outputs."""
    dims = draw(st.integers(1, 3))
    per_dim = lambda low, high: draw(st.tuples(*[st.integers(low, high)] * dims))
    positions, taps = per_dim(2, 4), per_dim(1, 3)
    groups, a, b = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    options = {
        "window_strides": per_dim(1, 2),
        "padding": [*zip(per_dim(-1, 2), per_dim(-1, 2), strict=True)],
        "lhs_dilation": per_dim(1, 3),
        "rhs_dilation": per_dim(1, 2),
        "feature_group_count": groups,
    }
    layout = [draw(st.permutations(range(dims + 2))) for _ in range(3)]
    options["dimension_numbers"] = lax.ConvDimensionNumbers(*map(tuple, layout))

    def laid_out(spec, sizes):
        return tuple(size for _, size in sorted(zip(spec, sizes, strict=True)))

    x_shape = laid_out(layout[0], [draw(st.integers(1, 2)), groups * a, *positions])
    w_shape = laid_out(layout[1], [groups * b, a, *taps])
    convolve = functools.partial(lax.conv_general_dilated, **options)
    shapes = jax.ShapeDtypeStruct(x_shape, float), jax.ShapeDtypeStruct(w_shape, float)
    hypothesis.assume(0 < jax.eval_shape(convolve, *shapes).size <= 64)
    return convolve, x_shape, w_shape


@bounded
@hypothesis.given(convolutions(), seeds)
def test_convolutions_with_any_strides_paddings_dilations_groups_and_layouts(convolution, seed):
    convolve, x_shape, w_shape = convolution
    check(lambda w, x: convolve(x, w), normal(seed, w_shape), x_shape, seed)


@bounded
@hypothesis.given(convolutions(), seeds)
def test_patches_in_pieces_are_the_patches(convolution, seed):
    convolve, x_shape, w_shape = convolution
    x = normal(seed, x_shape)
    (equation,) = jax.make_jaxpr(convolve)(x, normal(seed, w_shape)).eqns
    factors = factors_of(equation, 1)
    of_patches = factors.weight_axes[-1] == "outputs"
    several = of_patches and len(x_shape) > 3 and factors.a > 1 and rows(equation) > 1
    assert (len(factors.pieces) > 1) == several
    if factors.pieces:
        pieces = [piece(x) for piece in factors.pieces]
        np.testing.assert_array_equal(np.concatenate(pieces, axis=-1), factors.x(x))


def rows(convolution):
    """Taps along the first axis of space."""
    spec = convolution.params["dimension_numbers"].rhs_spec
    return convolution.invars[1].aval.shape[spec[2]]


@st.composite
def views(draw, shape):
    """A function that makes a view of an array of that shape, step by step."""
    steps = []
    for _ in range(draw(st.integers(0, 4))):
        step = draw(st.sampled_from(STEPS))(draw, shape)
        steps.append(step)
        shape = jax.eval_shape(step, jax.ShapeDtypeStruct(shape, float)).shape
    return lambda w: functools.reduce(lambda view, step: step(view), steps, w)


def reshaped(draw, shape):
    size = math.prod(shape)
    rows = draw(st.sampled_from([i for i in range(1, size + 1) if size % i == 0]))
    return lambda w: w.reshape(rows, size // rows)


def transposed(draw, shape):
    order = draw(st.permutations(range(len(shape))))
    return lambda w: w.transpose(order)


def sliced(draw, shape):
    starts = [draw(st.integers(0, size - 1)) for size in shape]
    stops = [draw(st.integers(start + 1, size)) for start, size in zip(starts, shape)]
    strides = [draw(st.integers(1, 2)) for _ in shape]
    return lambda w: lax.slice(w, starts, stops, strides)


def split(draw, shape):
    axis = draw(st.integers(0, len(shape) - 1))
    cut, which = draw(st.integers(1, max(shape[axis] - 1, 1))), draw(st.booleans())
    return lambda w: jnp.split(w, [cut], axis)[which] if shape[axis] > 1 else w


def indexed(draw, shape):
    i = draw(st.integers(0, shape[0] - 1))
    return lambda w: w[i] if w.ndim > 1 else w[i:]


def expanded(draw, shape):
    axis = draw(st.integers(0, len(shape)))
    return lambda w: jnp.expand_dims(w, axis)


def reversed_(draw, shape):
    axis = draw(st.integers(0, len(shape) - 1))
    return lambda w: jnp.flip(w, axis)


def scaled(draw, shape):
    factor = draw(st.sampled_from([-1.5, 0.5, 3.0]))
    return draw(st.sampled_from([lambda w: factor * w, lambda w: w / jnp.float64(factor)]))


def negated(draw, shape):
    return lambda w: -w


def repeated(draw, shape):
    return lambda w: jnp.concatenate([w, 2 * w])


STEPS = [
    reshaped,
    transposed,
    sliced,
    split,
    indexed,
    expanded,
    reversed_,
    scaled,
    negated,
    repeated,
]


@bounded
@hypothesis.given(st.data(), st.sampled_from([(12,), (4, 3), (2, 3, 2)]), seeds)
def test_views_of_one_weight_before_its_uses(data, shape, seed):
    first, second = data.draw(views(shape)), data.draw(views(shape))

    def f(w, x):
        left, right = first(w), second(w)
        h = jnp.tensordot(x[: len(left)], left, 1)
        return h, jnp.tensordot(right, jnp.sin(x[: right.shape[-1]]), 1)

    check(f, normal(seed, shape), (200,), seed)
