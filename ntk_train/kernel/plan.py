"""How to contract each parameter's factored Jacobian: pure arithmetic on static shapes.

A leaf that is cut has J[.,r,a,b] = sum_t g[.,r,t,b] x[.,r,t,a], and its part of the kernel comes
from one of

    jacobian   form J on both sides, then one product of J with J
    half_gram  X = x x^T over a, Z = X g over t, then one product of Z with g
    full_gram  (x x^T over a) times (g g^T over b), entry by entry, summed over t, s
    identity   x x^T over a, on the diagonal of the outputs: the last layer, whose g is one-hot

or it is not cut (`transposed`) and its J comes from the transposition of the program. For a dense
layer (T = 1) the full Gram costs N^2 (A + O^2 B) in place of N^2 O^2 A B; for a convolution at
large T the Jacobian is smaller than any Gram. (R. Novak et al., *Fast Finite Width Neural Tangent
Kernel*, ICML 2022, section 3.3 and table 2.) What decides is time: operations, and numbers that
go to memory and back.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ntk_train._jax import Equation, shape_of
from ntk_train._types import Groups, KernelProblem
from ntk_train.program.linear import LinearProgram
from ntk_train.program.sites import Site
from ntk_train.program.unfactored import unfactored_uses


class Machine(NamedTuple):
    """What a plan has to know of a device.

    Attributes:
      balance: operations of a matrix product in the time of one number to memory or back.
      block: bytes of patches and cotangents that a block of examples may take; more than a cache
        holds is slower on a CPU, and fewer examples at once are slower on an accelerator.
      memory: bytes that those of one example may take, before its outputs are taken in blocks.
      tile: rows and columns of a block of the kernel.
      launch: numbers copied in the time that it takes to start one more product.
      batches: whether one batched product is faster than many small ones.
      columns: how many parts of x2 are worth a program of their own; where the compiler brings
        factors in order by itself, and slices are copies, none.
    """

    balance: int
    block: float
    memory: float
    tile: int
    launch: int
    batches: bool
    columns: int


# Measured for "cpu" (2 cores, 32 MB of cache) and "gpu" (H200); "tpu" from data sheets.
MACHINES = {
    "cpu": Machine(30, 16e6, 1e9, 256, 16_000, False, 8),
    "gpu": Machine(30, 8e9, 8e9, 4096, 1_000_000, True, 1),
    "tpu": Machine(100, 2e9, 2e9, 4096, 1_000_000, True, 1),
}


class Cost(NamedTuple):
    """Of one computation.

    Attributes:
      operations: multiplications and additions.
      moved: numbers that go to memory or back.
    """

    operations: int
    moved: int

    def time(self, machine: Machine) -> int:
        """In operations of a matrix product."""
        return self.operations + machine.balance * self.moved


def this_machine() -> Machine:
    """The kind of device that JAX computes on by default."""
    kind = jax.default_backend()
    machine = MACHINES.get(kind, MACHINES["gpu"])
    limit = ((jax.local_devices()[0].memory_stats() if kind != "cpu" else None) or {}).get(
        "bytes_limit"
    )
    return machine._replace(block=limit / 2, memory=limit / 2) if limit else machine


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
    unfactored: Sequence[Equation] = ()


class Blocks(NamedTuple):
    """How many are computed at once.

    Attributes:
      examples: of one side, for their rows of the factored Jacobian.
      outputs: of these examples.
      tile: examples of either side, for their block of the kernel; None for all.
      columns: how many parts of x2 are multiplied one after the other; of x1 with itself only what
        is on and above the diagonal.
    """

    examples: int
    outputs: int
    tile: int | None
    columns: int = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to compute the kernel of some leaves; nothing is computed yet.

    Attributes:
      problem: what to compute.
      groups: the leaves whose kernels are wanted apart.
      programs: the linear programs of x1 and of x2, one and the same for x2 = None.
      labels: sizes of the labels of the layout.
      parts: one plan for each leaf, or for each of its parts.
      bundles: indices of the parts whose Jacobians are formed, those side by side that are
        multiplied in one product; no bundle has leaves of two groups.
      stacks: indices of the parts whose factors are kept, those together that are contracted as
        one: small layers of equal sizes, side by side along r.
      blocks: how many examples and outputs at once.
      cost: of the whole, derivatives included.
      inner: the plan of the kernel of a variable h that separates other leaves from the outputs, to
        be pushed through J_h = df/dh; h is then the last tangent of `programs`.
    """

    problem: KernelProblem
    groups: Groups
    programs: tuple[LinearProgram, LinearProgram]
    labels: Mapping[str, int]
    parts: Sequence[PartPlan]
    bundles: Sequence[Sequence[int]]
    stacks: Sequence[Sequence[int]]
    blocks: Blocks
    cost: Cost
    inner: "Plan | None" = None

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


def make_plan(
    problem: KernelProblem,
    groups: Groups,
    programs: tuple[LinearProgram, LinearProgram],
    sites: tuple[Sequence[Site], Sequence[Site]],
    inner: Plan | None = None,
) -> Plan:
    """Plans the leaves of some groups.

    Args:
      problem: what to compute.
      groups: the leaves whose kernels are wanted apart.
      programs: of both sides.
      sites: of both sides.
      inner: the plan of all other leaves.

    Returns:
      The plan.
    """
    machine = this_machine()
    labels = _label_sizes(problem, programs)
    parts = [
        part
        for i in sorted(leaf for leaves in groups for leaf in leaves)
        for part in _plans_of_leaf(problem, machine, labels, i, programs, sites)
    ]
    factored = {part.leaf for part in parts if part.sites[0]}
    uses = unfactored_uses(programs[0], factored)
    parts = [
        dataclasses.replace(part, unfactored=[use for leaf, use in uses if leaf == part.leaf])
        for part in parts
    ]
    cost = _derivatives(problem, labels, programs, parts)
    costs = [cost, *(part.cost for part in parts)]
    if inner is not None:
        costs += [inner.cost, _push(problem, labels, inner)]
    total = Cost(sum(c.operations for c in costs), sum(c.moved for c in costs))
    return Plan(
        problem=problem,
        groups=groups,
        programs=programs,
        labels=labels,
        parts=parts,
        bundles=[bundle for leaves in groups for bundle in _bundles(parts, leaves)],
        stacks=[stack for leaves in groups for stack in _stacks(parts, leaves)],
        blocks=_blocks(problem, machine, labels, parts, total.operations),
        cost=total,
        inner=inner,
    )


def _plans_of_leaf(
    problem: KernelProblem,
    machine: Machine,
    labels: Mapping[str, int],
    leaf: int,
    programs: tuple[LinearProgram, LinearProgram],
    sites: tuple[Sequence[Site], Sequence[Site]],
) -> Iterator[PartPlan]:
    path = problem.paths[leaf]
    groups1, groups2 = (_parts_of(leaf, side) for side in sites)
    labels1, labels2 = ([group[0].theta_labels for group in own] for own in (groups1, groups2))
    if not groups1 or labels1 != labels2:
        size = problem.theta[leaf].size
        if all(program.tangents[leaf] in program.terms for program in programs):
            cost = Cost(0, 2 * _rows(labels, problem.layout.out))
            yield PartPlan(path, leaf, ((), ()), "identity", None, cost, 1, joined=False)
            return
        cost = Cost(2 * math.prod(labels.values()) * size, 0)
        joined = _is_small(problem, machine, labels, size)
        yield PartPlan(path, leaf, ((), ()), "transposed", None, cost, size, joined)
        return
    for own1, own2 in zip(groups1, groups2, strict=True):
        t, s = (sum(site.t for site in own) for own in (own1, own2))
        sizes = Sizes(labels, own1[0].r, t, s, own1[0].factors.a, own1[0].factors.b)
        options = _costs(problem, machine, sizes)
        if own1[0].factors.one_hot:  # a Jacobian of one-hot rows would be mostly zeros
            del options["jacobian"]
        if _is_output(own1, programs[0]) and _is_output(own2, programs[1]):
            gram = sizes.of("".join(examples_of(problem)) + "a")
            options["identity"] = Cost(2 * gram, 2 * sizes.of(problem.layout.out))
        way = min(options, key=lambda way: options[way].time(machine))
        row = sizes.r * min(sizes.a * sizes.b, sizes.t * sizes.b)
        width = sizes.of("rab" if way == "jacobian" else "rsb")
        if way == "full_gram":
            joined = _is_stacked(problem, machine, sizes)
        else:
            joined = way != "identity" and _is_small(problem, machine, labels, width)
        yield PartPlan(path, leaf, (own1, own2), way, sizes, options[way], row, joined)


def _is_output(uses: Sequence[Site], program: LinearProgram) -> bool:
    """Whether what a weight makes of one position is the output, but for what is added to it."""
    return (
        len(uses) == uses[0].r == uses[0].t == 1
        and not uses[0].view.scans
        and not uses[0].view.scales
        and uses[0].equation.outvars[0] in program.terms
    )


def _parts_of(leaf: int, sites: Sequence[Site]) -> list[list[Site]]:
    """The sites of a leaf, by its parts in order."""
    own = [site for site in sites if site.view.leaf == leaf]
    numbers = sorted({site.part for site in own})
    return [[site for site in own if site.part == number] for number in numbers]


def _label_sizes(
    problem: KernelProblem, programs: tuple[LinearProgram, LinearProgram]
) -> dict[str, int]:
    layout = problem.layout
    x2 = problem.x1 if problem.x2 is None else problem.x2
    labels: dict[str, int] = {}
    for side, x, program in zip(
        (layout.left, layout.right), (problem.x1, x2), programs, strict=True
    ):
        sizes = list(shape_of(program.out).shape)
        if problem.batched:
            sizes.insert(0, jax.tree.leaves(x)[0].shape[0])
        if len(sizes) != len(side):  # a separator, whose entries have one label
            sizes = [sizes[0], math.prod(sizes[1:])]
        labels |= zip(side, sizes, strict=True)
    return labels


def _bundles(parts: Sequence[PartPlan], leaves: Collection[int]) -> list[list[int]]:
    """Parts of some leaves whose Jacobians are formed: the small ones together, each large alone.

    One product of many narrow Jacobians side by side reads and writes the kernel once.
    """
    formed = [
        i
        for i, part in enumerate(parts)
        if part.leaf in leaves and part.way in ("jacobian", "transposed")
    ]
    small = [i for i in formed if parts[i].joined]
    return [[i] for i in formed if not parts[i].joined] + ([small] if small else [])


def _stacks(parts: Sequence[PartPlan], leaves: Collection[int]) -> list[list[int]]:
    """Parts of some leaves whose factors are kept, small ones of equal sizes together."""
    stacks: dict[Any, list[int]] = {}
    for i, part in enumerate(parts):
        if part.leaf not in leaves or part.way in ("jacobian", "transposed"):
            continue
        key: Any = i
        if part.way == "full_gram" and part.joined and part.sizes is not None:
            one_hot = part.sites[0][0].factors.one_hot
            key = (one_hot, part.sizes.t, part.sizes.s, part.sizes.a, part.sizes.b)
        stacks.setdefault(key, []).append(i)
    return list(stacks.values())


def _is_stacked(problem: KernelProblem, machine: Machine, sizes: Sizes) -> bool:
    """Whether copying a layer's factors costs less than to start the products of its full Gram."""
    left, right = (sizes.of(side) for side in (problem.layout.left, problem.layout.right))
    width = sizes.of("rtb")
    if not machine.batches:
        # Without any product of matrices what is spared is a few loops: 1.3 times as fast at a
        # width of 256, and slower at 1024.
        return left == right == sizes.t == sizes.s == 1 and width <= machine.launch // 32
    return left * width <= 5 * machine.launch


def _is_small(
    problem: KernelProblem, machine: Machine, labels: Mapping[str, int], width: int
) -> bool:
    """Whether copying a Jacobian of a width costs less than one more product for the kernel."""
    of_kernel, rows = (_rows(labels, side) for side in (problem.layout.out, problem.layout.left))
    return rows * width <= machine.launch + of_kernel


def _blocks(
    problem: KernelProblem,
    machine: Machine,
    labels: Mapping[str, int],
    parts: Sequence[PartPlan],
    operations: int,
) -> Blocks:
    sides = (problem.layout.left, problem.layout.right)
    rows = max(_rows(labels, side) for side in sides)
    n = max(labels[side[0]] for side in sides) if problem.batched else 1
    outputs = max(_rows(labels, side[1:] if problem.batched else side) for side in sides)
    formed = [part.sizes for part in parts if part.way == "jacobian" and part.sizes is not None]
    patches, cotangents = (4 * sum(sizes.of(v) for sizes in formed) for v in ("rta", "rtb"))
    example = patches + outputs * cotangents
    examples = n
    kept = rows * 4 * sum(part.row_numbers for part in parts)
    if example * n > max(machine.block, kept):  # or the loop would take more than it saves
        examples = max(1, int(machine.block // example))
    if example > machine.memory:
        outputs = max(1, int(machine.memory // (example // outputs)))
    tile = None
    n_, m_ = examples_of(problem)
    blocked = n_ != m_ and {n_, m_} <= set(problem.layout.out) and all(labels.values())
    if n > 1 and blocked and rows >= 4 * machine.tile:
        tile = max(1, machine.tile // outputs)
    pairs = sum(part.cost.operations for part in parts if part.way == "half_gram")
    columns = 1
    if blocked and tile is None and pairs > operations / 8:  # or it takes more than it saves
        m = labels[m_]
        columns = m if m <= machine.columns else min(machine.columns, 2)
    return Blocks(examples, outputs, tile, columns)


def _costs(problem: KernelProblem, machine: Machine, sizes: Sizes) -> dict[str, Cost]:
    """Costs of each way to contract one leaf."""
    layout, of = problem.layout, sizes.of
    left, right, (n, m) = layout.left, layout.right, examples_of(problem)
    both = left + right
    form = of(left + "rtab") + (0 if problem.x2 is None else of(right + "rsab"))
    formed = of(left + "rab") + of(right + "rab")
    gram_x = of(n + m + "rtsa")
    kept = "".join(label for label in both if label in layout.out + n + m)
    kernel = 2 * of(layout.out)
    z, gram = of(left + m + "rsb"), of(kept + "rts")
    small = (
        _is_small(problem, machine, sizes.labels, sizes.of("rab")),
        _is_small(problem, machine, sizes.labels, sizes.of("rsb")),
    )
    return {
        "jacobian": Cost(2 * (form + of(both + "rab")), 2 * formed + (0 if small[0] else kernel)),
        "half_gram": Cost(
            2 * (gram_x + of(left + m + "rtsb") + of(both + "rsb")),
            2 * z + (0 if small[1] else kernel),
        ),
        "full_gram": Cost(2 * (gram_x + of(both + "rtsb") + of(kept + "rts")), 2 * gram + kernel),
    }


def _rows(labels: Mapping[str, int], side: str) -> int:
    return math.prod(labels[label] for label in side)


def _derivatives(
    problem: KernelProblem,
    labels: Mapping[str, int],
    programs: tuple[LinearProgram, LinearProgram],
    parts: Sequence[PartPlan],
) -> Cost:
    """Of one backward pass for each row, without what would end in the leaves that are cut."""
    operations = 0
    sides = (problem.layout.left, problem.layout.right)
    for side in (0,) if problem.x2 is None else (0, 1):
        saved = sum(
            2 * site.r * site.t * site.factors.b * (1 if site.factors.one_hot else site.factors.a)
            for part in parts
            for site in part.sites[side]
        )
        operations += _rows(labels, sides[side]) * max(programs[side].operations - saved, 0)
    return Cost(operations, 0)


def _push(problem: KernelProblem, labels: Mapping[str, int], inner: Plan) -> Cost:
    """Of J_h Theta_h J_h^T."""
    n, h, m, i = (inner.labels[label] for label in inner.problem.layout.out)
    left, right = (_rows(labels, side) for side in (problem.layout.left, problem.layout.right))
    once = left * m * i
    return Cost(2 * once * h + 2 * left * right * i, 2 * (n * h * m * i + once + left * right))


def reference_costs(plan: Plan) -> dict[str, Cost]:
    """Costs of the two plain implementations, by the same count."""
    problem, labels, layout = plan.problem, plan.labels, plan.problem.layout
    left, right = (_rows(labels, side) for side in (layout.left, layout.right))
    n, _ = examples_of(problem)
    sides = [left] if problem.x2 is None else [left, right]
    a_pass = [_operations(plan, side) for side in (0, 1)]
    backward = sum(rows * operations for rows, operations in zip(sides, a_pass, strict=False))
    num_parameters = sum(leaf.size for leaf in problem.theta)
    forward = right * (labels[n] if n and n not in layout.shared else 1) * a_pass[0]
    return {
        "jacobian_contraction": Cost(
            backward + 2 * math.prod(labels.values()) * num_parameters,
            2 * num_parameters * sum(sides),
        ),
        "ntk_vector_products": Cost(right * a_pass[1] + forward, 2 * right * num_parameters),
    }


def _operations(plan: Plan, side: int) -> int:
    """Of one backward pass."""
    return plan.programs[side].operations + (_operations(plan.inner, side) if plan.inner else 0)
