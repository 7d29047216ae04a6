"""What all ways have in common: the sizes they reckon with, and what they are asked."""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from ntk_train._types import KernelProblem
from ntk_train.kernel.labelled import Labelled
from ntk_train.kernel.machine import Cost, Machine
from ntk_train.kernel.precision import Stages, stages_of
from ntk_train.rules.arithmetic import Arithmetic


class Setting(NamedTuple):
    """What a kernel is planned for.

    Attributes:
      problem: what to compute.
      machine: on what.
      labels: sizes of the labels of the problem's layout. Where a trace or diagonal takes some
        outputs at a time, that is how many, see `of_some`.
    """

    problem: KernelProblem
    machine: Machine
    labels: Mapping[str, int]

    @property
    def stages(self) -> Stages:
        """The arithmetic of the products."""
        return stages_of(self.problem.precision, self.machine.kind, in_terms=self.machine.in_terms)

    def size(self, labels: str) -> int:
        """Entries of an array with these labels: rows of a Jacobian, or of the kernel."""
        return math.prod(self.labels[label] for label in labels)

    def of_some(self, label: str, size: int) -> "Setting":
        """With another size of one label."""
        return self._replace(labels={**self.labels, label: size})


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the labels of one parameter's two sides.

    Attributes:
      labels: sizes of the labels of the kernel's layout, always the whole.
      r: of what input, weight and output share.
      t: positions on the side of x1, all uses of the weight together.
      s: positions on the side of x2.
      a: input features.
      b: output features.
    """

    labels: Mapping[str, int]
    r: int = 1
    t: int = 1
    s: int = 1
    a: int = 1
    b: int = 1

    def of(self, labels: str) -> int:
        """Product of the sizes of labels of the layout or of this record, each of them once."""
        sizes = self._sizes
        return math.prod([sizes[label] for label in set(labels)])

    @functools.cached_property
    def _sizes(self) -> Mapping[str, int]:
        inner = {"r": self.r, "t": self.t, "s": self.s, "a": self.a, "b": self.b}
        return {**inner, **self.labels}


class Uses(NamedTuple):
    """What one parameter meets in one example, or in all where they are coupled.

    Uses of one weight are positions that share it: their cross terms come of themselves.

    Attributes:
      data: what it meets at each of its sites; none for one that meets no data.
      factors: for each from the data to the factor x[r,t,a], or with the number of a piece to this
        part of a.
      dtype: of the parameter.
      arithmetic: of products of these with cotangents.
    """

    data: list[jax.Array]
    factors: Sequence[Callable[..., jax.Array]]
    dtype: Any
    arithmetic: Arithmetic

    def x(self, piece: int | None = None) -> jax.Array:
        """The factor x[r,t,a]; 1 for a parameter that is added as it is."""
        if not self.data:
            return jnp.ones((1, 1, 1), self.dtype)
        return along_positions([f(d, piece) for f, d in zip(self.factors, self.data, strict=True)])


class Cotangents(NamedTuple):
    """What comes back to one parameter from some outputs.

    Attributes:
      outputs: how many they are.
      at_sites: df/dy of each of its sites [o,r,t,b].
      whole: its Jacobian [o, *shape] where it has no sites.
    """

    outputs: int
    at_sites: list[jax.Array]
    whole: jax.Array | None

    def g(self) -> jax.Array:
        """The factor g[o,r,t,b]."""
        return along_positions(self.at_sites)


class ProductRows(NamedTuple):
    """What is kept of one side for one product, with leading axes for examples.

    Both are what `Way.together` makes of the members of the product: unless a way does otherwise,
    one array for each member.

    Attributes:
      x: what does not depend on the output: [n, ...], or [...] where examples are coupled.
      g: what does: [*labels of the side, ...].
    """

    x: list[jax.Array]
    g: list[jax.Array]


@dataclasses.dataclass(frozen=True)
class Way(abc.ABC):
    """A way to contract the Jacobian of one parameter; README.md says how to add one.

    Attributes:
      name: of the way, in the table of `ntk_train.explain` and in `Choices.ways`.
      sizes: of the parameter's labels.
    """

    name: ClassVar[str]
    sizes: Sizes

    @abc.abstractmethod
    def cost(self, setting: Setting) -> Cost:
        """Of its part of the kernel, derivatives not included.

        What is written and then read counts twice, as does the kernel, to which the part is added.
        """

    @abc.abstractmethod
    def product(self, setting: Setting) -> Hashable | None:
        """Parameters for which this is equal are contracted as one; None for one on its own."""

    @property
    def kept_numbers(self) -> int:
        """Numbers that are held for one row of the Jacobian: those of g, as all rows share x."""
        return self.cotangent_numbers

    @property
    def row_numbers(self) -> int:
        """Numbers that one row of the Jacobian comes to at least, factored or not."""
        sizes = self.sizes
        return sizes.r * min(sizes.a * sizes.b, sizes.t * sizes.b)

    @property
    def patch_numbers(self) -> int:
        """Numbers of the factor x of one example."""
        return self.sizes.of("rta")

    @property
    def cotangent_numbers(self) -> int:
        """Numbers of the factor g of one row."""
        return self.sizes.of("rtb")

    @property
    def letters(self) -> tuple[str, str, str, str]:
        """R, T, A and B as text, empty where the way has none."""
        sizes = self.sizes
        return str(sizes.r), str(sizes.t), str(sizes.a), str(sizes.b)

    def of_example(self, uses: Uses) -> list[jax.Array]:
        """What is kept of one example for all of its rows."""
        return [uses.x()]

    def of_outputs(self, uses: Uses, cotangents: Cotangents) -> jax.Array:  # noqa: ARG002
        """What is kept of the rows of some outputs of one example: [o, ...]."""
        return cotangents.g()

    def together(self, members: Sequence[jax.Array]) -> list[jax.Array]:
        """What was kept of the members of one product, as it is contracted."""
        return list(members)

    @abc.abstractmethod
    def contract(self, setting: Setting, left: ProductRows, right: ProductRows) -> Labelled:
        """The product's part of the kernel, from what was kept of both sides.

        They may be some examples of each side, so that the arrays alone say how many. The labels of
        what is returned are those of the layout's `out`, in that order.
        """


def along_positions(uses: Sequence[jax.Array]) -> jax.Array:
    """Factors [..., t, k] of several uses of a weight, as positions that share it."""
    return uses[0] if len(uses) == 1 else jnp.concatenate(uses, axis=-2)


def of_one_dtype(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """All in the dtype that holds them all."""
    dtype = jnp.result_type(*arrays)
    return [array.astype(dtype) for array in arrays]


def rows_of_outputs(rows: jax.Array) -> jax.Array:
    """[o, *rest] to [o, k], also of no rows."""
    return rows.reshape(rows.shape[0], math.prod(rows.shape[1:]))


def is_small(setting: Setting, width: int) -> bool:
    """Whether copying a Jacobian of a width costs less than one more product for the kernel."""
    layout = setting.problem.layout
    copied = setting.size(layout.left) * width
    return copied <= setting.machine.copied_per_product + setting.size(layout.out)
