"""The records of a plan: what is done with each parameter, and how much of it at once.

Five words say what a kernel is divided into, each of them one thing:

=======  ==================================================================================
group    parameters whose kernel is wanted apart from the others', as by layer
part     a parameter, or a slice of one that is used on its own
product  parts of one group that are contracted as one
block    examples, and outputs, of which the rows of the Jacobian are computed at once
tile     of the kernel: examples of either side whose entries are computed at once
=======  ==================================================================================
"""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from ntk_train._jax import Equation
from ntk_train._types import KernelProblem
from ntk_train.kernel.machine import Cost, Machine
from ntk_train.kernel.ways import Setting, Way
from ntk_train.program.linear import LinearProgram
from ntk_train.program.liveness import Pass
from ntk_train.program.sites import Site

NumberedGroups: TypeAlias = Mapping[int, Sequence[int]]
"""Groups of leaves by their numbers; one level of a cut may have no leaves of some."""


@dataclasses.dataclass(frozen=True)
class PartPlan:
    """What is done with one part of a leaf: all of it, or a slice that is used on its own.

    Attributes:
      path: of the parameter.
      leaf: index of its leaf.
      sites: where it meets data on the sides of x1 and of x2; none if it does not, or is not
        factored.
      way: to contract its Jacobian.
      cost: of its part of the kernel.
      unfactored: the equations for which it is transposed although they contract it.
    """

    path: str
    leaf: int
    sites: tuple[Sequence[Site], Sequence[Site]]
    way: Way
    cost: Cost
    unfactored: Sequence[Equation] = ()


@dataclasses.dataclass(frozen=True)
class Product:
    """What is contracted as one: some parts of one group.

    Attributes:
      group: number of the group.
      members: indices of the parts.
      way: that of the first of them, which contracts them all.
    """

    group: int
    members: Sequence[int]
    way: Way


@dataclasses.dataclass(frozen=True)
class Work:
    """What has to be in memory for the leaves of a plan, however much of it at once.

    Attributes:
      setting: what to compute, and on what.
      parts: what is done with each leaf.
      passes: what a forward and a backward pass hold, on either side.
    """

    setting: Setting
    parts: Sequence[PartPlan]
    passes: tuple[Pass, Pass]

    @property
    def problem(self) -> KernelProblem:
        """What to compute."""
        return self.setting.problem

    @property
    def machine(self) -> Machine:
        """Its caches and memory."""
        return self.setting.machine

    @property
    def examples(self) -> int:
        """Of the side with more of them; 1 where they are coupled."""
        if not self.problem.batched:
            return 1
        return max(self.setting.size(side[0]) for side in self._sides)

    @property
    def outputs(self) -> int:
        """Rows of an example, or of all where they are coupled, on the side with more of them."""
        first = 1 if self.problem.batched else 0
        return max(self.setting.size(side[first:]) for side in self._sides)

    @property
    def rows(self) -> int:
        """On the side with more of them."""
        return max(map(self.setting.size, self._sides))

    @property
    def row_numbers(self) -> int:
        """Numbers that are held for one row of all parts."""
        return sum(part.way.kept_numbers for part in self.parts)

    @functools.cached_property
    def kept(self) -> list[int]:
        """Bytes that are held for the rows of each part."""
        return [self.kept_of(part) for part in self.parts]

    def kept_of(self, part: PartPlan) -> int:
        """Bytes that are held for the rows of a part, of both sides where they differ."""
        sides = self._sides if self.problem.x2 is not None else self._sides[:1]
        rows = sum(map(self.setting.size, sides))
        return self.problem.itemsize * rows * part.way.kept_numbers

    @functools.cached_property
    def forward(self) -> int:
        """Bytes of the activations of one example, and of its patches for one layer."""
        patches = max((part.way.patch_numbers for part in self.parts), default=0)
        return self.problem.itemsize * (patches + max(own.activations for own in self.passes))

    @functools.cached_property
    def passing(self) -> int:
        """Bytes of the cotangents of one output as they go by."""
        return self.problem.itemsize * max(own.cotangents for own in self.passes)

    @functools.cached_property
    def together(self) -> int:
        """Bytes of the cotangents of one output where those of all layers are kept."""
        layers = sum(part.way.cotangent_numbers for part in self.parts)
        return max(self.passing, self.problem.itemsize * layers)

    def of_some(self, traced: tuple[str, int] | None) -> "Work":
        """What is left for some outputs of a trace or diagonal."""
        if traced is None:
            return self
        return dataclasses.replace(self, setting=self.setting.of_some(*traced))

    @property
    def _sides(self) -> tuple[str, str]:
        return self.problem.layout.left, self.problem.layout.right


class Blocks(NamedTuple):
    """How many are computed at once.

    Attributes:
      examples: of one side, in a block.
      outputs: of these examples, in a block.
      tile: examples of either side, in a tile; None for all.
      columns: where `tile` is None, into how many tiles of all examples of x1 and some of x2 the
        kernel is cut; of x1 with itself they have only what is on and above the diagonal.
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
    """A kernel whose tiles are kernels of fewer examples, for the rows of all would not fit.

    The derivatives of an example are computed anew for each tile.

    Attributes:
      size: examples of either side in a tile.
      own: the plan for a tile on the diagonal, None where x2 is given.
      other: the plan for any other tile.
    """

    size: int
    own: "Plan | None"
    other: "Plan"


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a planner is told; what is None it finds itself.

    Attributes:
      machine: what to plan for, in place of what JAX computes on.
      ways: names of those that weights at sites may take.
      pieces: whether patches are made in pieces, wherever a rule has some.
      blocks: how many examples and outputs at once.
      streamed: whether layers go one after the other.
      examples: of how many the rows fit in memory.
      many: from how many equations on derivatives are found kind by kind (`program.linear`).
    """

    machine: Machine | None = None
    ways: Collection[str] | None = None
    pieces: bool | None = None
    blocks: Blocks | None = None
    streamed: bool | None = None
    examples: float | int | None = None
    many: int | None = None


FREE = Choices()
"""Nothing is told."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to compute the kernel of some leaves; nothing is computed yet.

    Attributes:
      setting: what it was planned for.
      groups: the leaves whose kernels are wanted apart.
      programs: the linear programs of x1 and of x2, one and the same where their examples have
        the same shapes.
      sites: of both programs, also of leaves that are in no group here.
      parts: one plan for each leaf, or for each of its parts.
      passes: what a forward and a backward pass hold, on either side.
      products: the parts that are contracted as one, for each group in turn.
      blocks: how many examples and outputs at once.
      cost: of the whole, derivatives included.
      inner: the plan of the kernel of a variable h that separates other leaves from the outputs, to
        be pushed through J_h = df/dh; h is then the last tangent of `programs`.
      tiles: where memory is short, the plans for fewer examples that take the place of this one.
    """

    setting: Setting
    groups: NumberedGroups
    programs: tuple[LinearProgram, LinearProgram]
    sites: tuple[Sequence[Site], Sequence[Site]]
    parts: Sequence[PartPlan]
    passes: tuple[Pass, Pass]
    products: Sequence[Product]
    blocks: Blocks
    cost: Cost
    inner: "Plan | None" = None
    tiles: Tiles | None = None

    @property
    def problem(self) -> KernelProblem:
        """What to compute."""
        return self.setting.problem

    @property
    def machine(self) -> Machine:
        """What it was planned for."""
        return self.setting.machine

    @property
    def labels(self) -> Mapping[str, int]:
        """Sizes of the labels of the layout."""
        return self.setting.labels

    @property
    def work(self) -> Work:
        """What has to be in memory for the leaves of this level."""
        return Work(self.setting, self.parts, self.passes)

    @property
    def all_parts(self) -> list[PartPlan]:
        """In the order of their leaves."""
        parts = [*self.parts, *(self.inner.all_parts if self.inner else ())]
        return sorted(parts, key=lambda part: part.leaf)

    @property
    def rows(self) -> int:
        """Rows of the Jacobian of x1."""
        return self.setting.size(self.problem.layout.left)

    def only(self, products: Sequence[Product]) -> "Plan":
        """The plan of some products, and of their groups."""
        own = {product.group for product in products}
        groups = {group: leaves for group, leaves in self.groups.items() if group in own}
        return dataclasses.replace(self, groups=groups, products=products)

    def of_some(self, label: str, size: int) -> "Plan":
        """The plan for so many of the outputs of which a trace or diagonal is taken."""
        return dataclasses.replace(self, setting=self.setting.of_some(label, size))
