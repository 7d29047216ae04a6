"""Planning takes time linear in depth, and what does not depend on the examples is found once."""

import collections
import cProfile
import pathlib
import pstats

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_train
from ntk_train import explain
from ntk_train.kernel import sides, structured
from ntk_train.kernel.plan import FREE

PACKAGE = str(pathlib.Path(ntk_train.__file__).parent)


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, "float32")


def transformer(params, x):
    """Pre-norm blocks with attention, of which the mean over tokens is classified."""
    for p in params["blocks"]:
        h = (x - x.mean(-1, keepdims=True)) * p["scale"]
        q, k, v = (h @ p[name] for name in "qkv")
        x = x + jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v
        x = x + jnp.tanh(x @ p["up"] + p["bias"]) @ p["down"]
    return x.mean(1) @ params["head"]


def network(depth, width=8, outputs=40):
    square = {name: shape(width, width) for name in "qkv"}
    mlp = {"up": shape(width, 2 * width), "bias": shape(2 * width), "down": shape(2 * width, width)}
    block = {"scale": shape(width), **square, **mlp}
    return {"blocks": [block] * depth, "head": shape(width, outputs)}


def calls(function):
    """How many functions and generators of this package are entered."""
    profile = cProfile.Profile()
    profile.runcall(function)
    stats = pstats.Stats(profile).stats
    return sum(entry[1] for (name, _, _), entry in stats.items() if name.startswith(PACKAGE))


@pytest.mark.parametrize("budget", [None, 1e4], ids=["", "within_a_budget"])
def test_linear_in_depth(budget):
    def work(depth):
        found = []
        explained = lambda: explain(transformer, network(depth), x, memory_budget=budget)
        number = calls(lambda: found.append(explained().plan))
        assert found[0].inner is not None
        assert (found[0].tiles is not None) == (budget is not None)
        return number

    x = shape(4, 5, 8)
    assert work(24) < 3.3 * work(8)


def test_what_all_sizes_of_blocks_have_in_common_is_found_once(monkeypatch):
    calls = collections.Counter()

    def counted(module, name):
        function = getattr(module, name)

        def call(*arguments):
            calls[name] += 1
            return function(*arguments)

        monkeypatch.setattr(module, name, call)

    for module, name in [
        (structured, "linear_program"),
        (structured, "separators"),
        (structured, "make_plan"),
        (sides, "find_sites"),
        (sides, "unfactored_uses"),
    ]:
        counted(module, name)
    plan = explain(transformer, network(2), shape(16, 5, 8), memory_budget=1e4).plan
    assert plan.tiles.size <= 4
    assert calls.pop("make_plan") > 6
    # The program, and both of its halves; in one of these no weight is left whole.
    assert calls == {"linear_program": 1, "separators": 1, "find_sites": 3, "unfactored_uses": 2}


def test_examples_of_equal_shapes_have_one_program():
    params, x = network(1), shape(4, 5, 8)
    for other, same in ((shape(3, 5, 8), True), (shape(4, 6, 8), False)):
        first, second = explain(transformer, params, x, other).plan.programs
        assert (first is second) == same


def test_the_cut_that_is_taken_is_hardly_dearer_than_any():
    """Of the cuts that are not tried none would have saved much time."""
    f = lambda params, x: [x := jnp.tanh(x @ w) for w in params][-1]
    rng = np.random.default_rng(0)
    for _ in range(4):
        widths = rng.integers(2, 60, size=6)
        params = [shape(*pair) for pair in zip((5, *widths), (*widths, 80))]
        plan = explain(f, params, shape(4, 5)).plan
        machine = plan.machine
        both = structured._trace_both(plan.problem)
        program, times = both.programs[0], []
        for i, equation in enumerate(program.equations):
            halves = [structured.cut_at(program, (i, j)) for j in range(len(equation.outvars))]
            for half in filter(None, halves):
                pairs = [sides.Sides((p, p)) for p in (half.inner, half.outer)]
                cut = structured._Cut(half.leaves, *pairs)
                groups = {0: range(len(params))}
                whole = structured._cut_plan(plan.problem, groups, cut, FREE)
                times.append(whole.cost.time(machine))
        assert plan.cost.time(machine) <= 1.05 * min(times)
