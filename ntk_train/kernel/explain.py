"""What the structured implementation does with each parameter, and what it costs, as a table.

>>> import jax.numpy as jnp, ntk_train
>>> f = lambda params, x: jnp.tanh(x @ params["w"]) @ params["v"]
>>> params = {"w": jnp.ones((8, 256)), "v": jnp.ones((256, 2))}
>>> plan = ntk_train.explain(f, params, jnp.ones((4, 8)))
>>> plan.row_numbers, plan.num_parameters, plan.implementation
(258, 2560, 'structured')
"""

import contextlib
import dataclasses
import functools
import gc
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from ntk_train._jax import source_line
from ntk_train._types import ApplyFn, KernelProblem, ParamFilter, PyTree
from ntk_train.kernel.auto import cheapest, costs_of
from ntk_train.kernel.machine import Cost
from ntk_train.kernel.narrow import widened
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.plan import PartPlan, Plan
from ntk_train.kernel.precision import described, precision_of_products
from ntk_train.kernel.problem import make_problem, warn_of_coupling
from ntk_train.kernel.structured import prepare
from ntk_train.kernel.whole import usual_promotion


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The plan of a kernel; `print` shows it as a table.

    Attributes:
      plan: of each parameter, with sizes and operations.
      implementation: what `implementation="auto"` takes.
      num_parameters: differentiated numbers (P).
      row_numbers: numbers that represent one row of the Jacobian, in place of P.
      rows: rows of the Jacobian of x1 (N O).
      problem: what is explained.
    """

    plan: Plan
    implementation: str
    num_parameters: int
    row_numbers: int
    rows: int
    problem: KernelProblem

    @functools.cached_property
    def costs(self) -> Mapping[str, Cost]:
        """Operations and traffic of each implementation that can compute the kernel."""
        with usual_promotion():  # f is traced once more, wherever the table is printed
            return costs_of(self.problem, self.plan)

    def __str__(self) -> str:
        """The table: a line for each parameter, then the totals."""
        header = ("parameter", "site", "line", "R", "T", "A", "B", "way", "operations", "numbers")
        lines = [header, *(_line(part, self.rows) for part in self.plan.all_parts)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        is_text = [True, True, True, False, False, False, False, True, False, False]
        table = [
            "  ".join(
                cell.ljust(width) if text else cell.rjust(width)
                for cell, width, text in zip(line, widths, is_text, strict=True)
            ).rstrip()
            for line in lines
        ]
        totals = [
            f"  {name:<22} {_short(cost.operations):>8} operations  "
            f"{_short(4 * cost.traffic):>8} bytes"
            + ("  <- auto" if name == self.implementation else "")
            for name, cost in sorted(
                self.costs.items(), key=lambda item: item[1].time(self.plan.machine)
            )
        ]
        inner = self.plan.inner
        cut = []
        if inner is not None:
            h, o = (
                plan.rows // plan.labels[plan.problem.layout.left[0]] for plan in (inner, self.plan)
            )
            cut = [f"Cut at {h} numbers for each example, in place of {o} outputs."]
        return "\n".join(
            [
                *table,
                "",
                *cut,
                *_at_once(self.plan),
                f"Products: {described(self.problem.precision, self.plan.setting.stages)}.",
                f"One row of the Jacobian is {_short(self.row_numbers)} numbers in place of "
                f"{_short(self.num_parameters)} parameters; x1 has {self.rows} rows.",
                *totals,
            ]
        )


def explain(
    f: ApplyFn,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None = None,
    *,
    outputs: Any = "full",
    batched: bool = True,
    param_filter: ParamFilter | None = None,
    memory_budget: float | int | None = None,
    precision: str | None = "float32",
    model_state: PyTree = None,
) -> Explanation:
    """Says how the kernel of the same arguments to `ntk_train.ntk` is computed.

    Nothing is computed: arguments may be shapes (`jax.ShapeDtypeStruct`), and large ones are as
    fast as small ones.

    Args:
      f: as in `ntk_train.ntk`, as are the others.
      params: parameters or their shapes.
      x1: inputs or their shapes.
      x2: other inputs or their shapes, or None.
      outputs: which part of the kernel.
      batched: whether examples are independent.
      param_filter: which parameters.
      memory_budget: as in `ntk_train.ntk`.
      precision: as in `ntk_train.ntk`.
      model_state: as in `ntk_train.ntk`, or its shapes.

    Returns:
      An `Explanation`; `print` it. For each parameter: the primitive at which it meets data and the
      line of code, the sizes of its labels R, T, A, B (see `ntk_train._types`), the way in which
      its part is contracted, operations, and how many numbers are held for the rows of x1. A
      transposed parameter with a primitive is one that is used there in a way without a rule.
    """
    options = KernelOptions(
        outputs=outputs,
        batched=batched,
        precision=precision,
        param_filter=param_filter,
        memory_budget=memory_budget,
    )
    leaves, treedef = jax.tree.flatten((params, x1, x2, model_state))
    is_array = [hasattr(leaf, "shape") for leaf in leaves]
    found: list[Explanation] = []

    def trace(arrays: list[jax.Array]) -> None:
        rest = iter(arrays)
        full = [next(rest) if yes else leaf for leaf, yes in zip(leaves, is_array, strict=True)]
        params, x1, x2, model_state = jax.tree.unflatten(treedef, full)
        problem = make_problem(f, params, x1, x2, options, model_state=model_state)
        warn_of_coupling(problem.coupling)
        found.append(_explain(problem))

    with precision_of_products(precision), usual_promotion(), _without_collection():
        jax.eval_shape(trace, [leaf for leaf, yes in zip(leaves, is_array, strict=True) if yes])
    return found[0]


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Python looks for no garbage in cycles: what a trace makes is in use until it ends.

    It would look again and again through all equations, for a fifth of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _explain(problem: KernelProblem) -> Explanation:
    problem = widened(problem)
    plan = prepare(problem, [range(len(problem.theta))])
    return Explanation(
        plan=plan,
        implementation=cheapest(problem, plan),
        num_parameters=sum(leaf.size for leaf in problem.theta),
        row_numbers=sum(part.way.row_numbers for part in plan.all_parts),
        rows=plan.rows,
        problem=problem,
    )


def _at_once(plan: Plan) -> list[str]:
    """What is not done at once, so that it fits in memory."""
    lines = []
    if plan.tiles is not None:
        lines.append(
            f"{plan.tiles.size} examples with as many at a time: the derivatives of an example are "
            "computed for each block of others, more operations than are listed here."
        )
        plan = plan.tiles.other
    if plan.blocks.streamed:
        lines.append("Layer by layer: the rows of one are in memory at a time.")
    if plan.blocks.traced is not None:
        label, size = plan.blocks.traced
        lines.append(f"{size} of {plan.labels[label]} outputs at a time.")
    return lines


def _line(part: PartPlan, rows: int) -> tuple[str, ...]:
    equations = [*part.unfactored, *(site.equation for site in part.sites[0])]
    sites = sorted({equation.primitive.name for equation in equations})
    lines = sorted({source_line(equation) for equation in equations})
    return (
        part.path,
        ", ".join(sites),
        lines[0] if lines else "",
        *part.way.letters,
        part.way.name,
        _short(part.cost.operations),
        _short(rows * part.way.row_numbers),
    )


def _short(number: int) -> str:
    """Four significant digits and a letter: 25.56 M."""
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.4g} {letter}"
    return f"{number:.4g}"
