"""From choices to the text of a function of (p, x), line by line, with the shape of each value."""

import itertools
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tests.programs.choices import Choices
from tests.programs.parts import NAMES

BATCH = 5  # examples of a function that is written for the whole batch, while its shapes are found


class Value(NamedTuple):
    """A variable of the text: its shape for one example, and its kind: float, complex, int."""

    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)


class Chunk(NamedTuple):
    """The lines that assign one variable, its kind, and what they contain."""

    name: str
    kind: str
    lines: list[str]
    features: set[str]


class Writer:
    """Writes the body of a function, or of one inside of it.

    Attributes:
      choices: of the node that is being written.
      native: whether values have an axis of examples in front, in place of `jax.vmap` around all.
      chunks: of the body so far.
      values: that may be used, the latest last.
      leaves: of the parameters, by name: shape and dtype.
      features: names of what the program contains.
    """

    def __init__(self, *, native: bool = False, outer: "Writer | None" = None) -> None:
        self.native = native
        self.chunks: list[Chunk] = []
        self.values: list[Value] = []
        self.outer = outer
        self.leaves: dict[str, tuple[tuple[int, ...], str]] = outer.leaves if outer else {}
        self.features: set[str] = outer.features if outer else set()
        self.choices: Choices = outer.choices if outer else Choices(())
        self.numbers: itertools.count = outer.numbers if outer else itertools.count()
        self.env: dict[str, jax.ShapeDtypeStruct] = dict(outer.env) if outer else {}

    # Values.

    def argument(self, name: str, shape: Sequence[int], dtype: str) -> Value:
        """A variable that the function is called with."""
        lead = (BATCH,) if self.native else ()
        self.env[name] = jax.ShapeDtypeStruct((*lead, *shape), dtype)
        return Value(name, tuple(shape), _kind(self.env[name]))

    def let(self, text: str, defined: Sequence[str] = ()) -> Value:
        """Assigns an expression to a new variable, after the definitions that it needs."""
        struct = self._shape_of(text, defined)
        name = f"v{next(self.numbers)}"
        self.env[name] = struct
        self.chunks.append(
            Chunk(name, _kind(struct), [*defined, f"{name} = {text}"], self.features)
        )
        value = Value(name, struct.shape[1:] if self.native else struct.shape, _kind(struct))
        self.values.append(value)
        return value

    def _shape_of(self, text: str, defined: Sequence[str]) -> jax.ShapeDtypeStruct:
        body = textwrap.indent("\n".join([*defined, f"return {text}"]), "    ")
        scope = dict(NAMES)
        exec(f"def step(p, {', '.join(self.env)}):\n{body}", scope)
        p = {name: jax.ShapeDtypeStruct(*leaf) for name, leaf in self.leaves.items()}
        return jax.eval_shape(scope["step"], p, *self.env.values())

    def pick(self, fits: Callable[[Value], bool] = lambda v: True) -> Value | None:
        """A value that fits, most often one of the latest; None if there is none."""
        found = [v for v in self.visible() if fits(v)][::-1]
        if not found:
            return None
        return found[0] if self.choices.chance(45) else self.choices.pick(found)

    def live(self, *results: str) -> list[Chunk]:
        """The chunks that some results depend on."""
        needed, found = set(results), []
        for chunk in reversed(self.chunks):
            if chunk.name in needed:
                found.append(chunk)
                needed.update(re.findall(r"\bv\d+\b", "\n".join(chunk.lines)))
        return found[::-1]

    def visible(self) -> list[Value]:
        """The values of this function and of those around it, the latest last."""
        return [*(self.outer.visible() if self.outer else ()), *self.values]

    def real(self, least: int = 1) -> Value:
        """A float with at least so many axes, or a vector made of one."""
        value = self.pick(lambda v: v.kind == "f" and v.ndim >= least)
        if value is not None:
            return value
        latest = self.pick(lambda v: v.kind == "f") or self.to_real(self.visible()[-1])
        return self.let(self.fitted(latest, (2,) * least))

    def to_real(self, value: Value) -> Value:
        """A value as floats: a complex one with its real and imaginary parts side by side."""
        if value.kind == "f":
            return value
        if value.kind == "i":
            return self.let(f"{value.name} / 7.0")
        if not value.ndim:
            return self.let(f"{value.name}.{self.choices.pick(['real', 'imag'])}")
        how = self.choices.below(4)
        if how < 2:
            return self.let(f"jnp.concatenate([{value.name}.real, {value.name}.imag], -1)")
        return self.let(f"{value.name}.real" if how == 2 else f"{value.name}.imag")

    # Text.

    def reshaped(self, value: Value, shape: Sequence[int]) -> str:
        lead = [f"{value.name}.shape[0]"] if self.native else []
        return f"{value.name}.reshape({tuple_of([*lead, *shape])})"

    def fitted(self, value: Value, shape: Sequence[int]) -> str:
        """The value in a shape, with its entries again and again or some of them only."""
        if value.shape == tuple(shape):
            return value.name
        if value.size == math.prod(shape):
            return self.reshaped(value, shape)
        return f"resized({value.name}, {tuple_of(shape)}{', True' if self.native else ''})"

    def leaf(self, shape: Sequence[int], *, tied: bool = False, dtype: str = "float64") -> str:
        """A leaf of the parameters: a new one, or one that is there already if it may be tied."""
        shape = tuple(shape)
        same = [name for name, leaf in self.leaves.items() if leaf == (shape, dtype)]
        if tied and same:
            self.features.add("tied leaf")
            return f'p["{self.choices.pick(same)}"]'
        name = "abcdefghijklmnopqrstuvwxyz"[len(self.leaves) % 26] + str(
            len(self.leaves) // 26 or ""
        )
        self.leaves[name] = shape, dtype
        return f'p["{name}"]'

    def weight(self, shape: Sequence[int]) -> str:
        """An expression of parameters alone in a shape: a leaf, or a view or function of some."""
        shape, choices = tuple(shape), self.choices
        kind = choices.below(27)
        if kind < 14 or not math.prod(shape) or not shape:
            return self.leaf(shape, tied=kind >= 9)
        tied = choices.chance(50)
        self.features.add("weight that is no leaf")
        if kind == 14:
            return f"{self.leaf(shape[::-1], tied=tied)}.T"
        if kind == 15:
            return (
                f"{self.leaf((shape[0] + 1, *shape[1:]), tied=tied)}[{choices.pick(['1:', ':-1'])}]"
            )
        if kind == 16:
            sizes = [s for s, dtype in self.leaves.values() if math.prod(s) == math.prod(shape)]
            other = choices.pick(sizes) if tied and sizes else (math.prod(shape),)
            return f"{self.leaf(other, tied=tied)}.reshape({tuple_of(shape)})"
        if kind == 17:
            return f"{self.leaf((2, *shape), tied=tied)}[{choices.below(2)}]"
        if kind == 18:
            scale = choices.pick(["-{}", "(2.0 * {})", "({} / 3.0)", "({} * np.float64(0.5))"])
            return scale.format(self.leaf(shape, tied=tied))
        if kind == 19:
            return f"{self.leaf(shape, tied=tied)}[::-1]"
        if kind in (20, 21):
            first, second = self.leaf(shape, tied=tied), self.leaf(shape, tied=True)
            return choices.pick(["({} + {}[::-1])", "({} * {})", "({} - 2.0 * {})"]).format(
                first, second
            )
        if kind in (22, 23) and self.leaves:
            name = choices.pick(list(self.leaves))
            if self.leaves[name][1] == "float64" and math.prod(self.leaves[name][0]):
                self.features.add("tied leaf")
                return f'jnp.resize(p["{name}"], {tuple_of(shape)})'
        if kind == 24:
            return f"jnp.tanh({self.leaf(shape, tied=tied)})"
        if kind == 25:
            return f"standardised({self.leaf(shape, tied=tied)})"
        return f"jnp.concatenate([{self.leaf((1, *shape[1:]), tied=tied)}] * {shape[0]})"

    def complex_weight(self, shape: Sequence[int]) -> str:
        """Two real weights as one complex one, or a real one."""
        how = self.choices.below(4)
        if how == 3:
            return self.weight(shape)
        if how == 2:
            return f"({self.weight(shape)} + 1j * {self.weight(shape)})"
        return f"lax.complex({self.weight(shape)}, {self.weight(shape)})"


def tuple_of(numbers: Sequence) -> str:
    """The text of a tuple."""
    return f"({', '.join(map(str, numbers))}{',' if len(numbers) == 1 else ''})"


def _kind(struct: jax.ShapeDtypeStruct) -> str:
    if jnp.issubdtype(struct.dtype, jnp.complexfloating):
        return "c"
    return "f" if jnp.issubdtype(struct.dtype, jnp.floating) else "i"
