"""Functions inside of the function: jit, remat, vmap, scans, branches and loops."""

import re
import textwrap
from collections.abc import Sequence

from tests.programs.ops.elementwise import SMOOTH
from tests.programs.ops.registry import operation, write_one
from tests.programs.writer import Value, Writer, tuple_of


class Block:
    """A function of its own, whose lines are written before it is used."""

    def __init__(self, writer: Writer, arguments: Sequence[tuple[tuple[int, ...], str]]) -> None:
        self.inner = Writer(native=writer.native, outer=writer)
        self.name = f"f{next(writer.numbers)}"
        self.arguments = [
            self.inner.argument(f"u{next(writer.numbers)}", shape, dtype)
            for shape, dtype in arguments
        ]
        self.inner.values += [v for v in self.arguments if v.kind != "i"]

    def write(self) -> Value:
        """Writes one operation or two, and returns the last float."""
        for _ in range(1 + self.inner.choices.below(2)):
            write_one(self.inner, inner=True)
        return self.inner.to_real(self.inner.values[-1])

    def definition(self, result: str, head: str | None = None) -> list[str]:
        head = head or ", ".join(v.name for v in self.arguments)
        names = re.findall(r"\bv\d+\b", result)
        lines = [line for chunk in self.inner.live(*names) for line in chunk.lines]
        body = textwrap.indent("\n".join([*lines, f"return {result}"]), "    ")
        return [f"def {self.name}({head}):", *body.split("\n")]


@operation(13, inner=False)
def called(writer: Writer):
    """A call of a function under jit or remat, of values of the outside too."""
    a = writer.real()
    block = Block(writer, [(a.shape, "float64")])
    result = block.write()
    how = writer.choices.pick(["jax.checkpoint", "jax.jit", "jax.checkpoint"])
    writer.features.add(how.removeprefix("jax."))
    writer.let(f"{how}({block.name})({a.name})", block.definition(result.name))


@operation(8, native=False, inner=False)
def mapped(writer: Writer):
    """jax.vmap or lax.map over the first axis of a value, and of a weight."""
    a = writer.real(2)
    if not a.shape[0]:
        a = writer.let(writer.fitted(a, (2, 2)))
    shape = (2,)
    block = Block(writer, [(a.shape[1:], "float64"), (shape, "float64")])
    result = block.write()
    w = writer.weight((a.shape[0], *shape))
    definition = block.definition(result.name)
    if writer.choices.chance(30):
        writer.let(f"lax.map(lambda u: {block.name}(*u), ({a.name}, {w}))", definition)
    elif writer.choices.chance(30):
        one = writer.weight(shape)
        writer.let(f"jax.vmap({block.name}, (0, None))({a.name}, {one})", definition)
    else:
        writer.let(f"jax.vmap({block.name})({a.name}, {w})", definition)


@operation(18, native=False, inner=False)
def scan(writer: Writer):
    """A scan over a value or a stack of weights, with a carry or without."""
    choices = writer.choices
    a, first = writer.real(2), writer.real()
    over_weight = choices.chance(60)
    if not a.shape[0]:
        a = writer.let(writer.fitted(a, (2, 2)))
    length, carry = min(a.shape[0], 3), choices.pick([first.shape, (2,), (3,)])
    slices = [(a.shape[1:], "float64")]
    xs = [f"{a.name}[:{length}]"]
    if over_weight:
        shape = choices.pick([(carry[-1], carry[-1]), carry, (2,)])
        slices.append((shape, "float64"))
        xs.append(writer.weight((length, *shape)))
        writer.features.add("scan over weights")
    block = Block(writer, [(carry, "float64"), *slices])
    state, *inner = block.arguments
    if over_weight and inner[1].shape == (carry[-1], carry[-1]) and choices.chance(70):
        block.inner.let(f"{state.name} @ {inner[1].name}")
    out = block.write()
    new = block.inner.fitted(out, carry)
    new = choices.pick(["{0}", "{1} + jnp.tanh({0})", "0.5 * {1} + {0}"]).format(new, state.name)
    ys = choices.pick([out.name, "None", state.name])
    definition = block.definition(f"{new}, {ys}", f"{state.name}, s_{block.name}")
    names = tuple_of([v.name for v in inner])
    definition.insert(1, f"    {names} = s_{block.name}")
    start = writer.fitted(first, carry)
    if choices.chance(20):
        start = writer.weight(carry)
        writer.features.add("carry from a weight")
    elif choices.chance(20):
        start = f"jnp.zeros({carry})"
    options = choices.pick(["", "", ", reverse=True", ", unroll=2"])
    which = 1 if ys != "None" and choices.chance(50) else 0
    writer.let(f"lax.scan({block.name}, {start}, {tuple_of(xs)}{options})[{which}]", definition)


@operation(7, native=False, inner=False)
def repeated(writer: Writer):
    """A loop of a fixed number of steps, with the same weights in each."""
    a = writer.real()
    block = Block(writer, [((), "int64"), (a.shape, "float64")])
    out = block.inner.fitted(block.write(), a.shape)
    writer.let(f"lax.fori_loop(0, 2, {block.name}, {a.name})", block.definition(out))


@operation(3, native=False, inner=False)
def counted(writer: Writer):
    """A loop with a condition, on integers and on what is not differentiated."""
    a = writer.real()
    how = writer.choices.below(2)
    if how:
        start = f"lax.stop_gradient({a.name})"
        loop = f"lax.while_loop(lambda v: (v * v).sum() > 1.0, lambda v: 0.5 * v, {start})"
        writer.let(f"{a.name} * {loop}")
    else:
        writer.let(f"{a.name} * lax.while_loop(lambda i: i < 3, lambda i: i + 2, 0)")


@operation(14, native=False, inner=False)
def branch(writer: Writer):
    """lax.cond or lax.switch, on the data or on a constant."""
    a, choices = writer.real(), writer.choices
    first, second = (Block(writer, [(a.shape, "float64")]) for _ in range(2))
    result = first.write()
    if choices.chance(50):
        other = second.write()
    else:
        v = second.arguments[0]
        other = second.inner.let(choices.pick(SMOOTH).format(v.name))
    text = second.inner.fitted(other, result.shape)
    defined = [*first.definition(result.name), *second.definition(text)]
    t = writer.pick(lambda v: v.kind == "i" and not v.ndim)
    on = choices.pick(["data", "constant", "data", "token"])
    if on == "constant":
        writer.features.add("branch on a constant")
        predicate = choices.pick(["True", "False", "jnp.array(True)"])
    elif on == "token" and t is not None:
        writer.let(
            f"lax.switch({t.name}.astype(int), [{first.name}, {second.name}], {a.name})", defined
        )
        return
    else:
        predicate = f"{a.name}.sum() > 0.0"
    writer.let(f"lax.cond({predicate}, {first.name}, {second.name}, {a.name})", defined)
