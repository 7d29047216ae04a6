"""From a program to its text, and from the text to (f, params, x1, x2).

text = write(draw(seed))
f, params, x1, x2 = text.case()
"""

import collections
import dataclasses
import functools
import math
import re
import textwrap
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import tests.programs.ops  # noqa: F401  registers the operations
from tests.programs.choices import Choices, Program
from tests.programs.ops.lookups import DTYPES, embedding
from tests.programs.ops.registry import write_one
from tests.programs.parts import NAMES
from tests.programs.writer import BATCH, Chunk, Value, Writer

N, M = 2, 3


@dataclasses.dataclass(frozen=True)
class Text:
    """A function of (p, x) as text, with the shapes of its arguments.

    Attributes:
      body: its lines.
      leaves: shape and dtype of each leaf of p.
      inputs: of each leaf of one example of x, in a dict or alone: shape, dtype and, of integers,
        the least and the greatest.
      native: whether it takes the whole batch.
      features: names of what it contains.
    """

    body: str
    leaves: dict[str, tuple[tuple[int, ...], str]]
    inputs: Any
    native: bool
    features: frozenset[str] = frozenset()

    def f(self):
        """The function of the whole batch."""
        scope = dict(NAMES)
        exec(self.definition(), scope)
        return scope["f"] if self.native else jax.vmap(scope["f"], (None, 0))

    def definition(self) -> str:
        return f"def f(p, x):\n{textwrap.indent(self.body, '    ')}\n"

    def case(self) -> tuple:
        """(f, params, x1, x2) with N and M examples."""
        return self.f(), *arguments(self.leaves, self.inputs)

    def script(self) -> str:
        """As an entry of failures.py."""
        return (
            f"@failure(\n    leaves={self.leaves},\n    inputs={self.inputs},\n"
            f"    native={self.native},\n)\n{self.definition()}"
        )


def arguments(leaves: dict, inputs: Any) -> tuple:
    """(params, x1, x2) of some shapes: the same numbers for the same names and shapes."""

    def x(n: int, seed: int):
        make = functools.partial(_examples, n, np.random.default_rng(seed))
        return jax.tree.map(make, inputs, is_leaf=lambda leaf: isinstance(leaf, tuple))

    return {name: _leaf(name, *leaf) for name, leaf in leaves.items()}, x(N, 1), x(M, 2)


def _leaf(name: str, shape: tuple[int, ...], dtype: str) -> jax.Array:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if dtype != "float64":
        return jnp.ones(shape, dtype)
    fan_in = math.prod(shape[:-1]) if shape[-1:] and shape[-1] else 1
    return jnp.asarray(rng.normal(size=shape) / np.sqrt(max(min(fan_in, 9), 1)))


def _examples(n: int, rng: np.random.Generator, leaf: tuple) -> jax.Array:
    shape, dtype, *bounds = leaf
    if not bounds:
        return jnp.asarray(rng.normal(size=(n, *shape)), dtype)
    low, high = bounds
    return jnp.asarray(rng.integers(low, high, (n, *shape), dtype, endpoint=True))


def write(program: Program) -> Text:
    """The text of a program."""
    head = Choices(program.head)
    writer = Writer(native=head.chance(20))
    writer.choices = head
    inputs = _write_inputs(writer, head)
    if isinstance(inputs, dict) and "t" in inputs and head.chance(60):
        writer.features.add("embedding")
        embedding(writer)
    of_inputs = writer.features
    for numbers in program.nodes:
        writer.choices, writer.features = Choices(numbers), set()
        write_one(writer)
    writer.choices, writer.features = Choices(program.tail), set()
    result = _write_outputs(writer)
    live = writer.live(*re.findall(r"\bv\d+\b", result))
    body = "\n".join([line for chunk in live for line in chunk.lines] + [f"return {result}"])
    features = set().union(of_inputs, writer.features, *(chunk.features for chunk in live))
    leaves = {name: leaf for name, leaf in writer.leaves.items() if f'p["{name}"]' in body}
    if writer.native:
        features.add("written for the batch")
    _add_other_leaves(head, leaves, features)
    return Text(body, leaves, inputs, writer.native, frozenset(features | _features_of(body, live)))


def _add_other_leaves(head: Choices, leaves: dict, features: set[str]) -> None:
    """Leaves that f does not use."""
    if head.chance(15):
        features.add("parameter of size 0")
        leaves["empty"] = (0, 2), "float64"
    if head.chance(15):
        features.add("unused parameter")
        leaves["unused"] = (2,), "float64"
    if head.chance(15):
        features.add("integer leaf in params")
        leaves["counter"] = (), "int32"
    if not any(dtype == "float64" and name not in _OTHERS for name, (_, dtype) in leaves.items()):
        features.add("no parameter is used")
        leaves["unused"] = (2,), "float64"


_OTHERS = ("empty", "unused", "counter")


def _write_inputs(writer: Writer, head: Choices) -> Any:
    shapes = [(3,), (2,), (4, 3), (1,), (2, 3, 2), (4, 4, 2), (6,), (3,), (3, 2), (5,)]
    shape = head.pick(shapes)
    main = shape, "float64"
    kind = head.weighted([("array", 5), ("tokens", 5), ("two", 2), ("unused", 1)])
    if kind == "array":
        _write_argument(writer, "x", main)
        return main
    inputs = {"a": main}
    if kind == "tokens":
        inputs["t"] = _tokens(writer, head)
    else:
        inputs["b"] = head.pick(shapes[:3]), "float64"
    writer.features.add("x is a pytree")
    lead = (BATCH,) if writer.native else ()
    writer.env["x"] = {
        name: jax.ShapeDtypeStruct((*lead, *leaf[0]), leaf[1]) for name, leaf in inputs.items()
    }
    for name in sorted(inputs, reverse=True):
        if kind == "unused" and name == "b":
            writer.features.add("unused leaf of x")
        else:
            writer.let(f'x["{name}"]')
    return inputs


def _write_argument(writer: Writer, name: str, leaf: tuple) -> None:
    writer.values.append(writer.argument(name, *leaf[:2]))


def _tokens(writer: Writer, head: Choices) -> tuple:
    """Integers in the range of small tables, partly out of it, or as far as the dtype goes."""
    dtype, shape = head.pick(DTYPES), head.pick([(3,), (), (2, 2)])
    writer.features.add(f"tokens {dtype}")
    info, how = np.iinfo(dtype), head.pick(["inside", "around", "around", "extreme"])
    low, high = {
        "inside": (0, 2),
        "around": (max(info.min, -4), 6),
        "extreme": (info.min, info.max),
    }[how]
    writer.features.add(f"tokens {how}")
    return shape, dtype, int(low), int(high)


WAYS = [
    "{0} + jnp.tanh({0})",
    "{0} + {0}[..., ::-1]",
    "{0} - 2.0 * {1}",
    "{0} + {1}",
    "{0}[..., ::-1]",
    "{0} + jnp.cumsum({1}, -1)",
    "{0} - {1}[..., ::-1]",
    "-{0}",
    "jnp.concatenate([{0}, {1}], -1)",
    "{0} + jnp.roll({1}, 1, -1)",
    "{0} * {1}",
    "3.0 * {0}",
    "{0} + {1}.sum(-1, keepdims=True)",
    "{0}[..., np.array([0, 0])] + {1}[..., :1]",
    "{1} + {0}",
    "jnp.stack([{0}, {1}], -1)",
    "{0}[..., :1] + {1}",
    "{0} + jnp.sort({0}, -1)",
    "{0}.at[..., 0].add({1}[..., -1])",
    "jnp.where({1} > 0.0, {0}, {0} + {1})",
    "{0} + 0.5 * {1} @ np.cos(np.arange({n}.0 ** 2)).reshape({n}, {n})",
]


def _write_output(writer: Writer) -> Value:
    """An output of at most LARGEST_OUTPUT numbers, made of one value or of two."""
    choices = writer.choices
    a = writer.visible()[-1] if choices.below(10) < 7 else writer.pick()
    if a.kind != "f":
        a = writer.to_real(a)
    while a.size > LARGEST_OUTPUT:
        how = choices.below(3) if a.shape[-1] > 1 else 0
        a = writer.let(f"{a.name}{['.sum(-1)', '[..., :2]', '[..., :1]'][how]}")
    if not a.ndim or not a.size:
        return a
    with_parameters = any('p["' in line for c in writer.live(a.name) for line in c.lines)
    if choices.chance(50 if with_parameters else 90):
        writer.features.add("a layer at the output")
        if a.ndim > 1 and choices.chance(60):
            a = writer.let(writer.reshaped(a, (a.size,)))
        shape = a.shape[-1], 1 + choices.below(5)
        w = writer.weight(shape) if choices.chance(40) else writer.leaf(shape, tied=True)
        a = writer.let(f"{a.name} @ {w}")
    if choices.chance(35):
        shapes = {4: (2, 2), 6: (2, 3), 8: (2, 2, 2), 9: (3, 3), 12: (3, 4), 10: (5, 2), 3: (3, 1)}
        shape = shapes.get(a.size, (1, a.size)) if a.ndim == 1 else (a.size,)
        a = writer.let(writer.reshaped(a, shape))
    b = writer.pick(lambda v: v.kind == "f") or a
    if choices.chance(70):
        way = choices.pick(WAYS)
        a = writer.let(way.format(a.name, writer.fitted(b, a.shape), n=a.shape[-1]))
    elif choices.chance(50):
        writer.features.add("weight added at the output")
        a = writer.let(f"{a.name} + {writer.weight(a.shape[-1:])}")
    if choices.chance(3):
        writer.features.add("wide output")
        wide = choices.pick([130, 260])
        flat = writer.reshaped(a, (a.size,))
        return writer.let(f"{flat} @ {writer.weight((a.size, wide))}")
    return a


LARGEST_OUTPUT = 12


_STRUCTURES = [
    "{0}",
    "{0}",
    '{{"a": {0}, "b": None, "c": {1}}}',
    "({0}, {1})",
    "{0}",
    '{{"b": {1}, "a": {0}}}',
    "{0}",
    "[{0}, ({1}, None)]",
]


def _write_outputs(writer: Writer) -> str:
    choices = writer.choices
    structure = choices.pick(_STRUCTURES)
    outputs = [_write_output(writer)]
    if "{1}" in structure:
        writer.features.add("outputs are a pytree")
        outputs.append(_write_output(writer))
    if "None" in structure:
        writer.features.add("outputs with None")
    for output in outputs:
        writer.features.add(f"output of {output.ndim} axes")
        if not output.size:
            writer.features.add("output of size 0")
    return structure.format(*(output.name for output in outputs))


def _features_of(body: str, live: list[Chunk]) -> set[str]:
    """What can be seen in the text, or in the kinds of its values."""
    names = ("while_loop", "fori_loop", "switch", "fft", "stop_gradient")
    found = {name for name in names if f"{name}(" in body}
    found |= {
        f"mode {m}" for m in ("clip", "fill", "wrap", "promise_in_bounds") if f"'{m}'" in body
    }
    if any(chunk.kind == "c" for chunk in live):
        found.add("complex value")
    used = re.findall(r'p\["(\w+)"\]', body)
    if len(used) > len(set(used)):
        found.add("leaf used twice")
    uses = collections.Counter(re.findall(r"\bv\d+\b", body))  # once where it is assigned
    if max(uses.values(), default=0) > 2:
        found.add("value used twice")
    return found
