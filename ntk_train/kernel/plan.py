"""The records of a plan: what is done with each parameter, and how much of it at once."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from ntk_train._jax import Equation
from ntk_train._types import KernelProblem
from ntk_train.kernel.machine import Cost, Machine
from ntk_train.program.linear import LinearProgram
from ntk_train.program.liveness import Pass
from ntk_train.program.sites import Site

NumberedGroups: TypeAlias = Mapping[int, Sequence[int]]
"""Groups of leaves by their numbers; one level of a cut may have no leaves of some."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the labels of one leaf's two sides.

    Attributes:
      labels: sizes of the labels of the kernel's layout.
      r: of what input, weight and output share.
      t: positions on the side of x1, all uses of the weight together.
      s: positions on the side of x2.
      a: input features.
      b: output features.
    """

    labels: Mapping[str, int]
    r: int
    t: int
    s: int
    a: int
    b: int

    def of(self, labels: str) -> int:
        """Product of the sizes of distinct labels, of the layout or of this record."""
        inner = {"r": self.r, "t": self.t, "s": self.s, "a": self.a, "b": self.b}
        sizes = inner | dict(self.labels)
        return math.prod(sizes[label] for label in set(labels))


@dataclasses.dataclass(frozen=True)
class PartPlan:
    """What is done with one part of a leaf: all of it, or a slice that is used on its own.

    Attributes:
      path: of the parameter.
      leaf: index of its leaf.
      sites: where it meets data on the sides of x1 and of x2; none if it is transposed.
      way: jacobian, half_gram, full_gram, identity or transposed.
      sizes: of its labels, None if it is transposed.
      cost: of its part of the kernel.
      row_numbers: numbers that represent one row of its Jacobian.
      joined: whether its last product is one with those of other parts, or all of its contraction
        where the way is full_gram.
      pieces: how many parts of its inputs' features a are made one after the other, for its
        Jacobian.
      unfactored: the equations for which it is transposed although they contract it.
    """

    path: str
    leaf: int
    sites: tuple[Sequence[Site], Sequence[Site]]
    way: str
    sizes: Sizes | None
    cost: Cost
    row_numbers: int
    joined: bool
    pieces: int = 1
    unfactored: Sequence[Equation] = ()


@dataclasses.dataclass(frozen=True)
class Work:
    """What has to be in memory for the leaves of a plan, however much of it at once.

    Attributes:
      problem: what to compute.
      machine: its caches and memory.
      labels: sizes of the labels of the layout.
      parts: what is done with each leaf.
      passes: what a forward and a backward pass hold, on either side.
    """

    problem: KernelProblem
    machine: Machine
    labels: Mapping[str, int]
    parts: Sequence[PartPlan]
    passes: tuple[Pass, Pass]

    @property
    def examples(self) -> int:
        """Of the side with more of them; 1 where they are coupled."""
        if not self.problem.batched:
            return 1
        return max(self.labels[side[0]] for side in self._sides)

    @property
    def outputs(self) -> int:
        """Rows of an example, or of all where they are coupled, on the side with more of them."""
        first = 1 if self.problem.batched else 0
        return max(self._size(side[first:]) for side in self._sides)

    @property
    def rows(self) -> int:
        """On the side with more of them."""
        return max(map(self._size, self._sides))

    @property
    def row_numbers(self) -> int:
        """Numbers that are held for one row of all parts."""
        return sum(map(_kept_numbers, self.parts))

    @functools.cached_property
    def kept(self) -> list[int]:
        """Bytes that are held for the rows of each part."""
        return [self.kept_of(part) for part in self.parts]

    def kept_of(self, part: PartPlan) -> int:
        """Bytes that are held for the rows of a part, of both sides where they differ."""
        sides = self._sides if self.problem.x2 is not None else self._sides[:1]
        return self.problem.itemsize * sum(map(self._size, sides)) * _kept_numbers(part)

    @functools.cached_property
    def forward(self) -> int:
        """Bytes of the activations of one example, and of its patches for one layer."""
        patches = max((part.sizes.of("rta") for part in self.parts if part.sizes), default=0)
        return self.problem.itemsize * (patches + max(own.activations for own in self.passes))

    @functools.cached_property
    def passing(self) -> int:
        """Bytes of the cotangents of one output as they go by."""
        return self.problem.itemsize * max(own.cotangents for own in self.passes)

    @functools.cached_property
    def together(self) -> int:
        """Bytes of the cotangents of one output where those of all layers are kept."""
        layers = sum(part.sizes.of("rtb") for part in self.parts if part.sizes)
        return max(self.passing, self.problem.itemsize * layers)

    @property
    def _sides(self) -> tuple[str, str]:
        return self.problem.layout.left, self.problem.layout.right

    def _size(self, labels: str) -> int:
        return math.prod(self.labels[label] for label in labels)


def _kept_numbers(part: PartPlan) -> int:
    """Numbers that are held for one row of a part's Jacobian."""
    if part.sizes is None or part.way == "identity":
        return part.row_numbers
    return part.sizes.of("rab" if part.way == "jacobian" else "rtb")


class Blocks(NamedTuple):
    """How many are computed at once.

    Attributes:
      examples: of one side, for their rows of the factored Jacobian.
      outputs: of these examples.
      tile: examples of either side, for their block of the kernel; None for all.
      columns: how many parts of x2 are multiplied one after the other; of x1 with itself only what
        is on and above the diagonal.
      traced: the label of the outputs of which a trace or diagonal is taken, and for how many of
        them the rows are in memory at once; None for all.
      streamed: whether layers go one after the other, in place of blocks of examples.
    """

    examples: int
    outputs: int
    tile: int | None
    columns: int = 1
    traced: tuple[str, int] | None = None
    streamed: bool = False


class Tiles(NamedTuple):
    """A kernel that is made of kernels of fewer examples, for the rows of all would not fit.

    The derivatives of an example are computed anew for each block of others.

    Attributes:
      size: examples of either side in a block.
      own: the plan for a block with itself, None where x2 is given.
      other: the plan for a block with another one.
    """

    size: int
    own: "Plan | None"
    other: "Plan"


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to compute the kernel of some leaves; nothing is computed yet.

    Attributes:
      problem: what to compute.
      machine: what it was planned for.
      groups: the leaves whose kernels are wanted apart.
      programs: the linear programs of x1 and of x2, one and the same where their examples have
        the same shapes.
      sites: of both programs, also of leaves that are in no group here.
      labels: sizes of the labels of the layout.
      parts: one plan for each leaf, or for each of its parts.
      passes: what a forward and a backward pass hold, on either side.
      bundles: indices of the parts whose Jacobians are formed, those side by side that are
        multiplied in one product; no bundle has leaves of two groups.
      stacks: indices of the parts whose factors are kept, those together that are contracted as
        one: small layers of equal sizes, side by side along r.
      blocks: how many examples and outputs at once.
      cost: of the whole, derivatives included.
      inner: the plan of the kernel of a variable h that separates other leaves from the outputs, to
        be pushed through J_h = df/dh; h is then the last tangent of `programs`.
      tiles: where memory is short, the plans for fewer examples that take the place of this one.
    """

    problem: KernelProblem
    machine: Machine
    groups: NumberedGroups
    programs: tuple[LinearProgram, LinearProgram]
    sites: tuple[Sequence[Site], Sequence[Site]]
    labels: Mapping[str, int]
    parts: Sequence[PartPlan]
    passes: tuple[Pass, Pass]
    bundles: Sequence[Sequence[int]]
    stacks: Sequence[Sequence[int]]
    blocks: Blocks
    cost: Cost
    inner: "Plan | None" = None
    tiles: Tiles | None = None

    @property
    def work(self) -> Work:
        """What has to be in memory for the leaves of this level."""
        return Work(self.problem, self.machine, self.labels, self.parts, self.passes)

    @property
    def all_parts(self) -> list[PartPlan]:
        """In the order of their leaves."""
        parts = [*self.parts, *(self.inner.all_parts if self.inner else ())]
        return sorted(parts, key=lambda part: part.leaf)

    @property
    def rows(self) -> int:
        """Rows of the Jacobian of x1."""
        return math.prod(self.labels[label] for label in self.problem.layout.left)


def examples_of(problem: KernelProblem) -> tuple[str, str]:
    """Labels of the examples on both sides, empty where they are coupled and x has none."""
    layout = problem.layout
    return (layout.left[0], layout.right[0]) if problem.batched else ("", "")
