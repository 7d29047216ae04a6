"""Where a program can be cut: the variables found in linear time are those of the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train._jax import Literal, shape_of
from ntk_train.program import separator
from ntk_train.program.linear import linear_program
from tests.bank import BANK


def depends(program, v, ends=()):
    """The linear variables that v depends on, itself included, not through `ends`."""
    found = {v}
    for equation in reversed(program.equations):
        if any(out in found and out not in ends for out in equation.outvars):
            found |= {u for u in equation.invars if not isinstance(u, Literal)} & program.linear
    return found


def separates(program, h):
    """The definition: some leaves reach the output through h, and none of these past it."""
    before, after = depends(program, h), depends(program, program.out, {h})
    leaves = [v for v in program.tangents if v in before]
    real = jnp.issubdtype(shape_of(h).dtype, jnp.floating)
    return real and bool(leaves) and h in after and not any(v in after for v in leaves)


def made(program):
    return [v for equation in program.equations for v in equation.outvars if v in program.linear]


def program_of(f, params, x):
    """Of one input; the parameters that are not floating-point numbers are constants."""
    leaves, treedef = jax.tree.flatten(params)
    is_theta = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]

    def flat_f(theta, x):
        theta = iter(theta)
        merged = [next(theta) if yes else leaf for leaf, yes in zip(leaves, is_theta)]
        y = f(jax.tree.unflatten(treedef, merged), jax.tree.map(lambda leaf: leaf[None], x))
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(y)])

    theta = [jnp.asarray(leaf) for leaf, yes in zip(leaves, is_theta) if yes]
    return linear_program(flat_f, theta, jax.tree.map(lambda leaf: leaf[0], x))


def agrees(program):
    if not isinstance(program.out, Literal):
        want = {v for v in made(program) if separates(program, v)}
        assert separator.separating(program) == want


@pytest.mark.parametrize("case", BANK, ids=lambda case: case.name)
def test_on_the_bank(case):
    f, params, x, _ = case.make("float64")
    agrees(program_of(f, params, x))


def random_network(rng):
    """A graph of values of many widths, of which any, and any weight, may be used again."""
    choices, params = [], []

    def f(params, x):
        values, picks = [x], iter(choices)
        while (pick := next(picks, None)) is not None:
            kind, i, j, k = pick
            left, right = values[i % len(values)], values[j % len(values)]
            if kind == "dense":
                w = params[k % len(params)]
                left = jnp.resize(left, len(w)) @ w
            elif kind == "sum":
                left = left + jnp.resize(right, left.shape)
            elif kind == "product":
                left = left * jnp.sum(right)
            elif kind == "join":
                left = jnp.concatenate([left, right])
            elif kind == "split":
                values.append(jnp.split(left, 2)[0] if len(left) % 2 == 0 else -left)
            elif kind == "complex":
                left = jnp.fft.irfft(jnp.fft.rfft(left), len(left))
            values.append(jnp.tanh(left))
        return jnp.concatenate([values[i % len(values)] for i in outputs])

    kinds = ["dense"] * 3 + ["sum", "product", "join", "split", "complex"]
    for _ in range(rng.integers(2, 12)):
        # Mostly what came last, so that the graph is often narrow.
        i, j = -1 - rng.geometric(0.6, size=2)
        choices.append((rng.choice(kinds), i + 1, j + 1, rng.integers(8)))
    params = [rng.normal(size=rng.integers(1, 6, size=2)) for _ in range(rng.integers(1, 5))]
    outputs = [0, *rng.integers(-3, 0, size=rng.integers(1, 3))]
    return f, params, rng.normal(size=3)


@pytest.mark.parametrize("seed", range(40))
def test_on_random_graphs(seed):
    f, params, x = random_network(np.random.default_rng(seed))
    agrees(linear_program(f, list(map(jnp.asarray, params)), x))


def dense(params, x):
    for w in params:
        x = jnp.tanh(x @ w)
    return x


@pytest.mark.parametrize(
    ("widths", "sizes"),
    [
        ((9, 4, 6, 5, 20), [5]),  # an earlier cut at more numbers has fewer parameters before it
        ((9, 3, 6, 5, 20), [5, 3]),
        ((4, 8, 16, 18, 20), [18, 8, 4]),  # hardly fewer numbers
        ((30, 40, 20), []),
    ],
)
def test_candidates_have_fewer_numbers_the_earlier_they_are(widths, sizes):
    shapes = zip((2, *widths), widths)
    program = linear_program(dense, [jnp.ones(shape) for shape in shapes], jnp.ones(2))
    found = list(separator.separators(program))
    assert [shape_of(halves.inner.out).size for halves in found] == sizes
    for halves in found:
        assert separates(program, halves.inner.out)
        assert halves.leaves == {i for i in range(len(halves.leaves))}


def test_a_cut_in_each_of_several_towers():
    """Of towers side by side none is before another, whatever their sizes."""
    f = lambda params, x: jnp.concatenate([dense(tower, x) for tower in params])
    towers = [[jnp.ones((2, size)), jnp.ones((size, 8))] for size in (6, 4, 5)]
    leaves, treedef = jax.tree.flatten(towers)
    program = linear_program(lambda leaves, x: f(treedef.unflatten(leaves), x), leaves, jnp.ones(2))
    found = [shape_of(halves.inner.out).size for halves in separator.separators(program)]
    assert sorted(found) == [4, 5, 6, 8]
