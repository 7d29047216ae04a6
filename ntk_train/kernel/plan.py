"""How to contract each parameter's factored Jacobian: pure arithmetic on static shapes.

A leaf that is cut has J[.,r,a,b] = sum_t g[.,r,t,b] x[.,r,t,a], and its part of the kernel comes
from one of

    jacobian   form J on both sides, then one product of J with J
    half_gram  X = x x^T over a, Z = X g over t, then one product of Z with g
    full_gram  (x x^T over a) times (g g^T over b), entry by entry, summed over t, s

or it is not cut (`transposed`) and its J comes from the transposition of the program. For a dense
layer (T = 1) the full Gram costs N^2 (A + O^2 B) in place of N^2 O^2 A B; for a convolution at
large T the Jacobian is smaller than any Gram. (R. Novak et al., *Fast Finite Width Neural Tangent
Kernel*, ICML 2022, section 3.3 and table 2.)
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax

from ntk_train._jax import shape_of
from ntk_train._types import KernelLayout, KernelProblem
from ntk_train.program.linear import LinearProgram
from ntk_train.program.sites import Site

# Time for an operation. The last product of a half Gram is one for each example of x2 and its
# result has to be transposed, which makes it slower than the one large product of a full Gram.
_SLOWNESS = {"jacobian": 1.0, "half_gram": 1.5, "full_gram": 1.0}


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
      sites1: where it meets data on the side of x1; none if it is transposed.
      sites2: the same on the side of x2.
      way: jacobian, half_gram, full_gram or transposed.
      sizes: of its labels, None if it is transposed.
      operations: multiplications and additions of its part of the kernel.
      row_numbers: numbers that represent one row of its Jacobian.
    """

    path: str
    leaf: int
    sites1: Sequence[Site]
    sites2: Sequence[Site]
    way: str
    sizes: Sizes | None
    operations: int
    row_numbers: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is done with each leaf, and what the implementations would cost in all.

    Attributes:
      parts: one plan for each differentiated leaf, or for each of its parts.
      operations: of each implementation, derivatives included.
      labels: sizes of the labels of the layout.
    """

    parts: Sequence[PartPlan]
    operations: Mapping[str, int]
    labels: Mapping[str, int]


def examples_of(problem: KernelProblem) -> tuple[str, str]:
    """Labels of the examples on both sides, empty where they are coupled and x has none."""
    layout = problem.layout
    return (layout.left[0], layout.right[0]) if problem.batched else ("", "")


def make_plan(
    problem: KernelProblem,
    program1: LinearProgram,
    sites1: Sequence[Site],
    program2: LinearProgram,
    sites2: Sequence[Site],
) -> Plan:
    """Plans every leaf, from the programs of both sides (one and the same for x2 = None)."""
    layout = problem.layout
    labels = _label_sizes(problem, program1, program2)
    both = math.prod(labels.values())
    parts: list[PartPlan] = []
    for i, (path, leaf) in enumerate(zip(problem.paths, problem.theta, strict=True)):
        groups1, groups2 = _parts_of(i, sites1), _parts_of(i, sites2)
        labels1, labels2 = (
            [group[0].theta_labels for group in groups] for groups in (groups1, groups2)
        )
        if not groups1 or labels1 != labels2:
            cost, row = 2 * both * leaf.size, leaf.size
            parts.append(PartPlan(path, i, (), (), "transposed", None, cost, row))
            continue
        for own1, own2 in zip(groups1, groups2, strict=True):
            t, s = (sum(site.t for site in own) for own in (own1, own2))
            sizes = Sizes(labels, own1[0].r, t, s, own1[0].factors.a, own1[0].factors.b)
            options = _operations(layout, sizes, examples_of(problem), problem.x2 is None)
            if own1[0].factors.one_hot:  # a Jacobian of one-hot rows would be mostly zeros
                del options["jacobian"]
            way = min(options, key=lambda way: _SLOWNESS[way] * options[way])
            row = sizes.r * min(sizes.a * sizes.b, sizes.t * sizes.b)
            parts.append(PartPlan(path, i, own1, own2, way, sizes, options[way], row))
    return Plan(parts, _totals(problem, labels, program1, program2, parts), labels)


def _parts_of(leaf: int, sites: Sequence[Site]) -> list[list[Site]]:
    """The sites of a leaf, by its parts in order."""
    own = [site for site in sites if site.view.leaf == leaf]
    numbers = sorted({site.part for site in own})
    return [[site for site in own if site.part == number] for number in numbers]


def _label_sizes(
    problem: KernelProblem, program1: LinearProgram, program2: LinearProgram
) -> dict[str, int]:
    def side(labels: str, x: object, program: LinearProgram) -> dict[str, int]:
        shape = shape_of(program.out).shape
        if problem.batched:
            shape = (jax.tree.leaves(x)[0].shape[0], *shape)
        return dict(zip(labels, shape, strict=True))

    layout = problem.layout
    x2 = problem.x1 if problem.x2 is None else problem.x2
    return side(layout.left, problem.x1, program1) | side(layout.right, x2, program2)


def _operations(
    layout: KernelLayout, sizes: Sizes, examples: tuple[str, str], one_sided: bool
) -> dict[str, int]:
    """Operations of each way to contract one leaf."""
    left, right, (n, m) = layout.left, layout.right, examples
    of = sizes.of
    both = left + right
    form = of(left + "rtab") + (0 if one_sided else of(right + "rsab"))
    gram_x = of(n + m + "rtsa")
    kept = "".join(label for label in both if label in layout.out + n + m)
    return {
        "jacobian": 2 * (form + of(both + "rab")),
        "half_gram": 2 * (gram_x + of(left + m + "rtsb") + of(both + "rsb")),
        "full_gram": 2 * (gram_x + of(both + "rtsb") + of(kept + "rts")),
    }


def _totals(
    problem: KernelProblem,
    labels: Mapping[str, int],
    program1: LinearProgram,
    program2: LinearProgram,
    parts: Sequence[PartPlan],
) -> dict[str, int]:
    """Operations of the three implementations, by one and the same count."""
    layout = problem.layout

    def rows(side: str) -> int:
        return math.prod(labels[label] for label in side)

    one_sided = problem.x2 is None
    n, _ = examples_of(problem)
    # A pass of one row of the whole program, and the part of it that ends in cut leaves.
    passes = [(rows(layout.left), program1)] + (
        [] if one_sided else [(rows(layout.right), program2)]
    )
    backward = sum(count * program.operations for count, program in passes)
    saved = passes[0][0] * sum(
        2 * part.sizes.of("rtb" if part.sites1[0].factors.one_hot else "rtab")
        for part in parts
        if part.sizes
    )
    both = math.prod(labels.values())
    num_parameters = sum(leaf.size for leaf in problem.theta)
    columns = rows(layout.right)
    forward = columns * (labels[n] if n and n not in layout.shared else 1) * program1.operations
    return {
        "structured": max(backward - saved, 0) + sum(part.operations for part in parts),
        "jacobian_contraction": backward + 2 * both * num_parameters,
        "ntk_vector_products": columns * program2.operations + forward,
    }
