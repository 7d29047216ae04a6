"""The glossary of letters, the type aliases and the frozen records that cross stages.

Letters, the same in every einsum, docstring and table of this library:

=======  ==================================================================================
N, M     examples of the two batches (n, m)
O        outputs per example (o, p)
T        positions that share a weight: pixels, tokens, time steps (t, s)
A        input features of a weight, kernel taps included (a)
B        output features of a weight (b)
R        labels shared by input, weight and output: groups, batch dimensions, layers (r)
P        number of parameters; one entry of a flattened parameter is labelled w
=======  ==================================================================================
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax

PyTree: TypeAlias = Any
"""Any nesting of containers that `jax.tree` knows, with arrays as its leaves."""

ApplyFn: TypeAlias = Callable[..., PyTree]
"""`f(params, x) -> outputs`, all three pytrees."""

Groups: TypeAlias = Sequence[Sequence[int]]
"""Groups of parameter leaves, by their indices, each with a kernel of its own."""

ParamFilter: TypeAlias = Callable[[str], bool]
"""Says for a parameter's path ("Dense_0/kernel") whether to differentiate it."""


@dataclasses.dataclass(frozen=True)
class KernelLayout:
    """Labels of the axes of the two Jacobians and of the kernel, as in an einsum.

    `left` and `right` label the axes of `f(params, x1)` and `f(params, x2)`. A label that
    stands in both and in `out` is a diagonal, one that stands in both and not in `out` is a
    trace. The full kernel is `KernelLayout("no", "mp", "nomp")`, the traced one
    `KernelLayout("no", "mo", "nm")`.
    """

    left: str
    right: str
    out: str

    def __post_init__(self) -> None:
        """Refuses labels that could not be an einsum over two Jacobians."""
        shared = set(self.left) & set(self.right)
        assert set(self.out) <= set(self.left) | set(self.right), self
        assert (set(self.left) | set(self.right)) - set(self.out) <= shared, (
            f"{self} sums over an axis of one side alone; sum f's outputs instead"
        )

    @property
    def shared(self) -> frozenset[str]:
        """Labels of traces and diagonals."""
        return frozenset(self.left) & frozenset(self.right)


@dataclasses.dataclass(frozen=True)
class Coupling:
    """Where the examples of a batch interact first.

    Attributes:
      primitive: name of the operation; empty if each output depends on one example alone, but the
        examples are not on the axis where they should be.
      line: file and line of the code, empty if that is not known.
    """

    primitive: str
    line: str


@dataclasses.dataclass(frozen=True)
class KernelProblem:
    """One kernel to compute, in the form that every implementation takes.

    Attributes:
      f1: from the differentiated leaves and one input to one array, for the side of x1. If
        `batched`, the input is one example (its axis 0 removed) and the array has no axis for
        examples; otherwise the input is the whole batch and the array has all axes.
      f2: the same for the side of x2; another function only where other arguments of f differ.
      theta: the differentiated leaves of params.
      paths: their paths in params, as "Dense_0/kernel".
      x1: pytree of inputs; with `batched` each leaf has the examples on axis 0.
      x2: the other inputs, or None for the kernel of x1 with itself.
      layout: labels of the axes. With `batched` the first label of each side is the example's.
      batched: whether examples are independent.
      precision: of the products, see `ntk_train.ntk`.
      memory_budget: bytes, see `ntk_train.ntk`.
      coupling: where examples interact although `batched` says that they do not; None if that is
        not known to be so.
    """

    f1: Callable[[list[jax.Array], PyTree], jax.Array]
    f2: Callable[[list[jax.Array], PyTree], jax.Array]
    theta: list[jax.Array]
    paths: list[str]
    x1: PyTree
    x2: PyTree | None
    layout: KernelLayout
    batched: bool
    precision: str | None
    memory_budget: float | int | None = None
    coupling: Coupling | None = None

    @property
    def example_labels(self) -> tuple[str, str]:
        """Labels of the examples on both sides, empty where they are coupled and x has none."""
        return (self.layout.left[0], self.layout.right[0]) if self.batched else ("", "")

    @functools.cached_property
    def itemsize(self) -> int:
        """Bytes of one number of the Jacobian."""
        return max(leaf.dtype.itemsize for leaf in self.theta)
