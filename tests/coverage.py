"""Which primitives the bank exercises, where, and how their parameters are treated.

    python -m tests.coverage

writes docs/coverage.md. Each case is linearised as the structured implementation does it, and the
tangents of its parameters are followed through the program: nothing is labelled by hand.
"""

import collections
import dataclasses
import functools
import pathlib

import jax
from jax.interpreters import ad

from ntk_train._jax import Literal
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.problem import make_problem
from ntk_train.program.linear import linear_program
from ntk_train.program.sites import find_sites
from tests.bank import BANK
from tests.kernel.test_laws import DTYPES

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "coverage.md"
COLUMNS = [
    "weight passes, factored",
    "weight passes, transposed",
    "weight meets data, factored",
    "weight meets data, transposed",
    "activation passes",
]
DATA = "data"  # the state of a tangent that has met data; before, it is the set of its leaves

# Transposable primitives of JAX that stand in no linear program of the bank, and why.
NOT_COVERED = {
    "they move data between devices inside of `shard_map`, which is one primitive here": [
        *("all_gather", "all_gather_invariant", "all_gather_reduced", "all_to_all", "pbroadcast"),
        *("pbroadcast_dynamic", "ppermute", "preduced", "psum_invariant", "pvary"),
        *("ragged_all_to_all", "reduce_scatter", "reduced_vary_cast", "unreduced_psum"),
        *("unreduced_reduce_scatter", "vary_unreduced_cast", "global_array_to_host_local_array"),
        "host_local_array_to_global_array",
    ],
    "they have no derivative without a rule of the user's, of which nothing is left": [
        *("composite", "debug_callback", "debug_print", "ffi_call", "io_callback", "pure_callback"),
    ],
    "JAX cannot differentiate it in reverse; the bank has a case in which every implementation "
    "raises JAX's own error": ["while"],
    "JAX cannot batch it, so that no implementation can take it": [
        "linear_call",
        "ragged_dot_general",
    ],
    "they say where or how data lies, as `sharding_constraint` does": [
        *("layout_constraint", "with_memory_space_constraint"),
    ],
    "JAX makes them for itself, for random keys, effects or compilation": [
        *("dce_sink", "from_edtype", "remat_opt", "stage", "tie", "to_edtype"),
    ],
}


@dataclasses.dataclass(frozen=True)
class Use:
    """One primitive in one position of one case; `leaves` are those that pass or meet there."""

    primitive: str
    position: str
    leaves: frozenset


def linearised(case):
    """The linear program of a case, in float32, so that conversions to float64 can be seen."""
    f, params, x1, _ = case.make("float32")
    options = KernelOptions(batched=case.batched, precision=None)
    problem = make_problem(f, params, x1, None, options)
    start = 1 if case.batched else 0
    shape = lambda leaf: jax.ShapeDtypeStruct(leaf.shape[start:], leaf.dtype)
    return linear_program(problem.f1, problem.theta, jax.tree.map(shape, x1))


def join(*states):
    states = [state for state in states if state is not None]
    if not states:
        return None
    return DATA if DATA in states else frozenset().union(*states)


def walk(block, tangents, data, uses):
    """Follows tangents through a block; adds its uses, returns the states of its outputs."""
    state = dict(tangents)
    data = set(data)
    known = lambda v: not isinstance(v, Literal) and v in data
    of = lambda v: None if isinstance(v, Literal) else state.get(v)
    for equation in block.equations:
        inputs = [of(v) for v in equation.invars]
        met = any(known(v) for v in equation.invars)
        if all(i is None for i in inputs):
            if met:
                data.update(equation.outvars)
            continue
        leaves = frozenset().union(*(i for i in inputs if i not in (None, DATA)))
        met |= DATA in inputs
        name = equation.primitive.name
        if leaves:
            uses.add(Use(name, "weight meets data" if met else "weight passes", leaves))
        if DATA in inputs:
            uses.add(Use(name, "activation passes", frozenset()))
        outputs = [DATA if met else leaves] * len(equation.outvars)
        if id(equation) in block.scans:
            scan = block.scans[id(equation)]
            outputs = walk_scan(scan, inputs, [known(v) for v in equation.invars], uses)
        state.update(zip(equation.outvars, outputs, strict=True))
    return [of(v) for v in block.outputs]


def walk_scan(scan, inputs, is_data, uses):
    """Follows tangents through the body until those that it carries stay what they are."""
    carry = slice(scan.num_consts, scan.num_consts + scan.num_carry)
    data = [v for v, yes in zip(scan.body.inputs, is_data, strict=True) if yes]
    inputs = list(inputs)
    while True:
        found = set()
        tangents = {v: i for v, i in zip(scan.body.inputs, inputs, strict=True) if i is not None}
        outputs = walk(scan.body, tangents, data, found)
        after = [join(i, o) for i, o in zip(inputs[carry], outputs[: scan.num_carry], strict=True)]
        if after == inputs[carry]:
            uses |= found
            return [*after, *outputs[scan.num_carry :]]
        inputs[carry] = after


def uses_of(case):
    """Pairs of primitive and column of one case."""
    program = linearised(case)
    tangents = {v: frozenset([i]) for i, v in enumerate(program.tangents)}
    uses = set()
    walk(program, tangents, program.x, uses)
    factored = {site.view.leaf for site in find_sites(program)}
    cells = set()
    for use in uses:
        if not use.leaves:
            cells.add((use.primitive, use.position))
        if use.leaves & factored:
            cells.add((use.primitive, f"{use.position}, factored"))
        if use.leaves - factored:
            cells.add((use.primitive, f"{use.position}, transposed"))
    return cells


def table():
    """From primitive and column to the number of cases."""
    return collections.Counter(
        cell for case in BANK if "structured" not in case.gaps for cell in uses_of(case)
    )


def primitives_in(jaxpr):
    """Names of the primitives of a jaxpr and of all inside of it."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from primitives_in(inner)


def before_linearisation():
    """From primitive to the number of cases whose function has it."""
    counts = collections.Counter()
    for case in BANK:
        f, params, x1, _ = case.make("float32")
        constant = functools.partial(f, params)  # some leaves are no arrays
        counts.update(set(primitives_in(jax.make_jaxpr(constant)(x1).jaxpr)))
    return counts


def version():
    """Of JAX, to the minor: others have other primitives."""
    return ".".join(jax.__version__.split(".")[:2])


def page():
    counts = table()
    names = sorted({name for name, _ in counts})
    rows = [
        [f"`{name}`", *(str(counts[name, column] or "") for column in COLUMNS)] for name in names
    ]
    others = sorted(
        (name, count) for name, count in before_linearisation().items() if name not in names
    )
    transposable = {str(primitive) for primitive in ad.primitive_transposes}
    excused = {name for group in NOT_COVERED.values() for name in group}
    missing = transposable - set(names) - excused
    assert not missing, f"no case has them, and NOT_COVERED gives no reason: {sorted(missing)}"
    line = lambda cells: f"| {' | '.join(cells)} |"
    code = lambda group: ", ".join(f"`{name}`" for name in sorted(group))
    return "\n".join(
        [
            "# What the tests cover",
            "",
            f"Made by `python -m tests.coverage` with JAX {version()} from the {len(BANK)} "
            "cases of `tests/bank/`: each case is linearised as the structured implementation does "
            "it, the tangents of its parameters are followed through the program, and each "
            "primitive is counted once for a case and position. A weight *passes* a primitive on "
            "its way to data, or *meets* data in it, or the derivative of an activation passes; "
            "the parameter's Jacobian is *factored*, or comes from the *transposition* of the "
            "program.",
            "",
            "On every case the laws of `tests/kernel/test_laws.py` compare the kernel of every "
            "implementation with one from an explicit Jacobian in float64: `full`, `trace`, `sum`, "
            "`diagonal` and chosen outputs, with and without `x2`, "
            + " and ".join(f"in {dtype} to {bar:g}" for dtype, bar in DTYPES.items())
            + " of the largest entry. Random dimension numbers of products and convolutions, and "
            "random chains of views, are in `tests/kernel/test_random_programs.py`.",
            "",
            line(["primitive", *COLUMNS]),
            line(["---", *["---:"] * len(COLUMNS)]),
            *map(line, rows),
            "",
            "## Gone by linearisation",
            "",
            "These are in the functions of the bank, but in none of the linear programs (cases):",
            "",
            ", ".join(f"`{name}` {count}" for name, count in others) + ".",
            "",
            "## Transposable, but in no case",
            "",
            *(
                f"- {code(transposable & set(group))}: {reason}."
                for reason, group in NOT_COVERED.items()
                if transposable & set(group)
            ),
            "",
        ]
    )


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    PAGE.write_text(page())
