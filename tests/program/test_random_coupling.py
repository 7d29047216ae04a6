"""Random programs over a batch: what the analysis finds is what numbers show, where it knows.

Steps rearrange, take apart and combine an array of any shape in which the axis of examples may be
anywhere, merged with others or gone; the last one gives outputs [N, O].
"""

import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax

from tests import oracle
from tests.program.test_coupling import N, analysed

MOST = 400  # entries of an array


def shape_of(step, shape):
    return jax.eval_shape(step, jax.ShapeDtypeStruct(shape, float)).shape


def axis_of(draw, shape):
    return draw(st.integers(0, len(shape) - 1))


def elementwise(draw, shape):
    scale = draw(st.sampled_from([0.5, -1.3]))
    return lambda h: jnp.sin(scale * h + 0.1)


def reshaped(draw, shape):
    sizes, rest = [], math.prod(shape)
    for _ in range(draw(st.integers(0, 2))):
        sizes.append(draw(st.sampled_from([i for i in range(1, rest + 1) if rest % i == 0])))
        rest //= sizes[-1]
    new = draw(st.permutations([*sizes, rest]))
    return lambda h: h.reshape(new)


def examples_merged(draw, shape):
    """Two neighbouring axes in one, or one in two."""
    axis = axis_of(draw, shape)
    if len(shape) > 1 and axis + 1 < len(shape):
        return lambda h: h.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
    size = draw(st.sampled_from([i for i in range(1, shape[axis] + 1) if shape[axis] % i == 0]))
    return lambda h: h.reshape(*shape[:axis], size, -1, *shape[axis + 1 :])


def transposed(draw, shape):
    order = draw(st.permutations(range(len(shape))))
    return lambda h: h.transpose(order)


def reduced(draw, shape):
    axis = axis_of(draw, shape)
    return lambda h: h.sum(axis=axis)


def normalised(draw, shape):
    axis = axis_of(draw, shape)
    return lambda h: h - jax.nn.logsumexp(h / 2, axis=axis, keepdims=True)


def accumulated(draw, shape):
    axis, turned = axis_of(draw, shape), draw(st.booleans())
    return lambda h: lax.cumsum(h, axis, reverse=turned)


def turned(draw, shape):
    axis = axis_of(draw, shape)
    return lambda h: jnp.flip(h, axis)


def sliced(draw, shape):
    axis = axis_of(draw, shape)
    start = draw(st.integers(0, shape[axis] - 1))
    stop, step = draw(st.integers(start + 1, shape[axis])), draw(st.integers(1, 2))
    return lambda h: lax.slice_in_dim(h, start, stop, step, axis)


def gathered(draw, shape):
    axis = axis_of(draw, shape)
    index = draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=4))
    return lambda h: jnp.take(h, jnp.array(index), axis=axis)


def scattered(draw, shape):
    index = draw(st.permutations(range(shape[0])))
    return lambda h: jnp.ones(shape).at[jnp.array(index)].set(h)


def updated(draw, shape):
    i, j = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[0] - 1))
    return lambda h: lax.dynamic_update_index_in_dim(h, jnp.cos(h[i]), j, 0)


def taken_apart(draw, shape):
    axis = axis_of(draw, shape)
    order = draw(st.permutations(range(shape[axis])))
    return lambda h: jnp.stack([jnp.sin(jnp.unstack(h, axis=axis)[i]) for i in order], axis)


def joined(draw, shape):
    axis = axis_of(draw, shape)
    return lambda h: jnp.concatenate([h, jnp.cos(h), jnp.ones(shape)], axis)


def padded(draw, shape):
    axis, inner = axis_of(draw, shape), draw(st.integers(0, 1))
    config = [(1, 0, inner) if i == axis else (0, 0, 0) for i in range(len(shape))]
    return lambda h: lax.pad(h, 0.7, config)


def expanded(draw, shape):
    axis, size = draw(st.integers(0, len(shape))), draw(st.integers(1, 3))
    return lambda h: jnp.repeat(jnp.expand_dims(h, axis), size, axis)


def tiled(draw, shape):
    reps = draw(st.tuples(*[st.integers(1, 2)] * len(shape)))
    return lambda h: jnp.tile(h, reps)


def paired(draw, shape):
    """All pairs of entries along the first axis."""
    return lambda h: jnp.sin(h[:, None] + 2 * h[None])


def multiplied(draw, shape):
    axis, size = axis_of(draw, shape), draw(st.integers(1, 3))
    w = np.random.default_rng(shape[axis]).normal(size=(shape[axis], size))
    return lambda h: jnp.moveaxis(jnp.tensordot(h, w, (axis, 0)), -1, axis)


def product_of_both(draw, shape):
    axis = axis_of(draw, shape)
    return lambda h: jnp.tensordot(h, jnp.cos(h), (axis, axis))


def windowed(draw, shape):
    axis, size, stride = axis_of(draw, shape), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    at = lambda value: tuple(value if i == axis else 1 for i in range(len(shape)))
    return lambda h: lax.reduce_window(h, 0.0, lax.add, at(size), at(stride), "SAME")


def convolved(draw, shape):
    """Along the last axis, with the others as a batch or as channels."""
    taps, as_channels = draw(st.integers(1, 2)), draw(st.booleans())

    def step(h):
        flat = h.reshape(-1, shape[-1])
        flat = flat[None] if as_channels else flat[:, None]
        w = jnp.cos(jnp.arange(2.0 * flat.shape[1] * taps)).reshape(2, flat.shape[1], taps)
        return lax.conv_general_dilated(flat, w, (1,), "SAME")

    return step


def scanned(draw, shape):
    with_carry = draw(st.booleans())

    def body(carry, row):
        carry = jnp.sin(carry + row) if with_carry else carry
        return carry, row * 2 + carry

    return lambda h: lax.scan(body, jnp.ones(shape[1:]), h)[1]


def looped(draw, shape):
    times, shift = draw(st.integers(1, 2)), draw(st.booleans())
    body = lambda _, h: jnp.sin(h + jnp.roll(h, 1, 0)) if shift else jnp.sin(h)
    return lambda h: lax.fori_loop(0, times, body, h)


def mapped(draw, shape):
    return lambda h: jax.vmap(lambda row: row - 0.3 * row.sum())(h)


def branched(draw, shape):
    return lambda h: jax.vmap(lambda row: lax.cond(row.sum() > 0, jnp.sin, jnp.cos, row))(h)


STEPS = [
    *(elementwise, reshaped, examples_merged, transposed, reduced, normalised, accumulated, turned),
    *(sliced, gathered, scattered, updated, taken_apart, joined, padded, expanded, tiled, paired),
    *(multiplied, product_of_both, windowed, convolved, scanned, looped, mapped, branched),
]


@st.composite
def programs(draw):
    """A function of x, and the shape of one example."""
    start = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=2)))
    steps, shape = [], (N, *start)
    for _ in range(draw(st.integers(1, 6))):
        if not shape:
            break
        step = draw(st.sampled_from(STEPS))(draw, shape)
        after = shape_of(step, shape)
        if 0 < math.prod(after) <= MOST and len(after) <= 5:
            steps.append(step)
            shape = after
    rows = [axis for axis, size in enumerate(shape) if size == N]
    if rows:
        axis = draw(st.sampled_from(rows))
        last = lambda h: jnp.moveaxis(h, axis, 0).reshape(N, -1)
    else:
        last = lambda h: jnp.ones((N, 1)) * h.reshape(1, -1)
    return (lambda x: last(functools.reduce(lambda h, step: step(h), steps, x))), start


def interact(f, x):
    """Whether some row of f(x) changes with another example than its own."""
    rng = np.random.default_rng(1)
    changed = [x.at[j].add(rng.normal(size=x.shape[1:])) for j in range(N) for _ in range(3)]
    rows = jax.jit(jax.vmap(f), compiler_options=oracle.QUICK)(jnp.stack([x, *changed]))
    change = np.abs(rows[1:] - rows[0]).max(axis=2).reshape(N, 3, N).max(axis=1)  # [j, row]
    return bool((change[~np.eye(N, dtype=bool)] > 1e-9).any())


def check(program):
    f, shape = program
    x = jnp.asarray(np.random.default_rng(0).normal(size=(N, *shape)))
    found, is_unknown = analysed(f, x)
    truth = interact(f, x)
    if found is not None:
        assert truth, f"a false alarm: {found}"
    elif not is_unknown:
        assert not truth


def settings(max_examples):
    return hypothesis.settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


@settings(30)
@hypothesis.given(programs())
def test_what_is_found_is_there_and_what_is_there_is_found(program):
    check(program)


@pytest.mark.heavy
@settings(1000)
@hypothesis.given(programs())
def test_of_a_thousand_programs(program):
    check(program)
