"""The page docs/benchmarks.md, from the data in experiments/results and nothing else.

    python -m experiments.tables          # a second; writes the page

A test compares the page with what the data gives.
"""

import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.record import RESULTS, ROOT, load_table
from experiments.summary import TOTALS, WITHIN, Cell, cells_of, totals

PAGE = ROOT / "docs" / "benchmarks.md"
Row = Mapping[str, str]

_CELLS = (
    "network", "auto, ms", "it took", "Jacobian contraction / auto", "auto / fastest of ours",
    "fastest of the peer", "peer / auto", "memory, peer / auto",
)  # fmt: skip
_GPU = (
    "network", "N", "O", "GPU", "implementation", "precision", "ms", "on the GPU, ms", "launches",
    "TFLOP/s", "compile, s", "temporary, MB", "relative error",
)  # fmt: skip
_MEMORY = (
    "network", "N", "O", "GPU", "budget, MB", "temporary, MB", "ms", "compile, s",
    "examples at a time", "relative difference",
)  # fmt: skip
_CERTIFICATE = (
    "network", "N", "O", "outputs", "device", "precision", "kernel, ms", "check, ms", "check, MB",
    "deviation", "tolerance",
)  # fmt: skip
_OVERHEAD = (
    "network", "O", "batch", "device", "way", "step, ms: median", "90th percentile", "99th",
    "longest", "kernel, ms", "measurements", "in all, %: median", "mean", "beyond the kernel, %",
    "± %",
)  # fmt: skip
_PLANNING = ("blocks", "leaves", "budget, MB", "examples at a time", "seconds", "of JAX alone")
_PRODUCTS = (
    "product", "shape", "form", "device", "ms", "TFLOP/s", "error", "compile, s",
)  # fmt: skip
_PEER_TESTS = (
    "tests", "cases of each, at most", "peer: passed", "failed", "skipped", "ours: passed",
    "failed", "skipped",
)  # fmt: skip


def page(folder: pathlib.Path = RESULTS) -> str:
    """The text of the page."""
    parts = [
        "# Benchmarks",
        "This page is written by `python -m experiments.tables` from the data in "
        "[experiments/results](../experiments/results); each section says how its data was made.",
        *_implementations(*load_table(folder / "benchmark_implementations")),
        *_gpu(*load_table(folder / "benchmark_gpu")),
        *_products(*load_table(folder / "benchmark_products")),
        *_memory(*load_table(folder / "benchmark_memory")),
        *_planning(*load_table(folder / "benchmark_planning")),
        *_certificate(*load_table(folder / "benchmark_certificate")),
        *_overhead(*load_table(folder / "benchmark_overhead")),
        *_agreement(*load_table(folder / "compare_neural_tangents")),
        *_peer_tests(*load_table(folder / "peer_tests")),
    ]
    return "\n\n".join(parts) + "\n"


def _implementations(rows: Sequence[Row], origins: Mapping[str, Any]) -> list[str]:
    cells = cells_of(rows) if rows and "chosen" in rows[0] else []
    if not cells:
        return []
    families = dict.fromkeys(cell.family for cell in cells)
    tables = [
        text
        for family in families
        for text in (
            f"### {family}",
            _table(_CELLS, [_cell(cell) for cell in cells if cell.family == family]),
        )
    ]
    return [
        "## Implementations, and the choice of `auto`",
        "Full kernels of a batch with itself in float32, the fastest of interleaved rounds. The "
        "peer is neural-tangents 0.6.5, in the same process; `auto` is compiled on its own, beside "
        "the implementation that it took. Ratios above 1 say that `auto` is faster, or needs less "
        "memory (temporary and result); means are geometric. Within says how often `auto` took no "
        f"more than {WITHIN} times as long as the fastest of ours, worst the largest such factor, "
        "and noise how far apart two compilations of one program were at most.",
        _table(TOTALS, totals(cells)),
        *tables,
        "Fully connected networks: milliseconds over width.\n\n"
        "![Milliseconds over width](../experiments/results/benchmark_implementations.png)",
        _made(rows, origins),
    ]


def _cell(cell: Cell) -> list[str]:
    return [
        cell.name,
        f"{cell.milliseconds:.4g}",
        cell.chosen,
        _ratio(cell.over_jacobian),
        _ratio(cell.over_own_best),
        cell.peer,
        _ratio(cell.peer_over_auto),
        _ratio(cell.peer_memory_over_auto),
    ]


def _ratio(number: float) -> str:
    return "" if number != number else f"{number:.2f}"  # NaN: not measured


def _gpu(rows: Sequence[Row], origins: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    cases = dict.fromkeys(row["case"] for row in rows)
    timed = [row for case in cases for row in rows if row["case"] == case and _is_shown(row)]
    measured = (
        "milliseconds", "device_milliseconds", "launches", "tflops", "compile_seconds",
        "temporary_megabytes",
    )  # fmt: skip
    lines = [
        [
            row["network"],
            row["n"],
            row["o"],
            _card(origins[row["run"]]),
            row["implementation"] + (f" ({row['chosen']})" if row["chosen"] else ""),
            row["precision"],
            *(row[column] for column in measured),
            row["relative_error"] or row["note"],
        ]
        for row in timed
    ]
    return [
        "## On a GPU, by precision of the matrix products",
        "Full kernels of a batch with itself, medians of batches of back-to-back runs. The error "
        "is the norm of the difference to the structured kernel in float64, of the same parameters "
        "and inputs, over its norm. In brackets what `auto` took. The rate is of the operations "
        "that the structured plan counts, whatever an implementation does. Only rows of one GPU "
        "compare.",
        _table(_GPU, lines),
        *_over_the_peer(rows, origins),
        *_shifts(rows),
        _made(rows, origins),
    ]


def _over_the_peer(rows: Sequence[Row], origins: Mapping[str, Any]) -> list[str]:
    """How much faster each precision is than the peer in float32, on the same kind of GPU."""
    times = {
        (row["case"], row["implementation"], row["precision"]): row
        for row in rows
        if row["milliseconds"]
    }
    names = ("float32", "highest", "split", "fast")
    lines: list[list[str]] = []
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for case in dict.fromkeys(row["case"] for row in rows):
        peer = times.get((case, "nt structured", "highest"))
        if peer is None:
            continue
        line = [peer["network"], peer["n"], peer["o"], peer["milliseconds"]]
        for name in names:
            own = times.get((case, "auto", name))
            if own is None or _card(origins[own["run"]]) != _card(origins[peer["run"]]):
                line.append("")
                continue
            ratios[name].append(float(peer["milliseconds"]) / float(own["milliseconds"]))
            line.append(f"{own['milliseconds']} ({ratios[name][-1]:.2f})")
        lines.append(line)
    if not lines:
        return []
    means = [f"{statistics.geometric_mean(own):.2f}" if own else "" for own in ratios.values()]
    least = [f"{min(own):.2f}" if own else "" for own in ratios.values()]
    return [
        "Milliseconds, and in brackets how many times as fast as the structured derivatives of "
        "neural-tangents 0.6.5 in float32 on the same kind of GPU:",
        _table(
            ("network", "N", "O", "neural-tangents", *names),
            [
                *lines,
                ["geometric mean of the ratios", "", "", "", *means],
                ["least", "", "", "", *least],
            ],
        ),
    ]


def _shifts(rows: Sequence[Row]) -> list[str]:
    """What a precision does to the numbers of a spectrum."""
    columns = ("lambda_max", "lambda_min", "condition", "effective_rank")
    lines = [
        [row[column] for column in ("network", "n", "o", "precision", "relative_error", *columns)]
        for case in dict.fromkeys(row["case"] for row in rows)
        for row in rows
        if row["case"] == case and row["implementation"] == "auto" and row["lambda_max"]
    ]
    if not lines:
        return []
    return [
        "What that does to the numbers of a spectrum, relative to those of the float64 kernel:",
        _table(
            (
                "network",
                "N",
                "O",
                "precision",
                "error of the kernel",
                "largest eigenvalue",
                "smallest",
                "condition number",
                "effective rank",
            ),
            lines,
        ),
    ]


def _products(rows: Sequence[Row], origins: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    columns = ("product", "shape", "form")
    numbers = ("milliseconds", "tflops", "relative_error", "compile_seconds")
    lines = [
        [row[column] for column in columns]
        + [_card(origins[row["run"]])]
        + [row[column] for column in numbers]
        for row in rows
        if not row["note"]
    ]
    return [
        "## One product, in each arithmetic",
        "What `precision=` chooses from, on products of the sizes that kernels are made of. "
        "Convolutions are those of a backward pass, as XLA takes them and in the forms of the "
        "stages of that name; a Gram is the product of rows with themselves, a sum of squares. The "
        "rate counts what is to be computed, however many terms that takes; the error is relative "
        "to float64, in norm.",
        _table(_PRODUCTS, lines),
        _made(rows, origins),
    ]


def _memory(rows: Sequence[Row], origins: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    columns = (
        "budget_megabytes", "temporary_megabytes", "milliseconds", "compile_seconds", "examples",
        "difference",
    )  # fmt: skip
    lines = [
        [row["network"], row["n"], row["o"], _card(origins[row["run"]])]
        + [row[column] for column in columns]
        for row in rows
    ]
    return [
        "## Within less memory",
        "Full kernels of a batch with itself in float32, at first without a `memory_budget`, then "
        "with parts of what that took beside the arguments and the kernel. Where the rows of all "
        "examples do not fit, a kernel of a few examples with a few others is made at a time, and "
        "their derivatives anew for each. The difference is relative to the kernel without a "
        "budget, in norm.",
        _table(_MEMORY, lines),
        _made(rows, origins),
    ]


def _planning(rows: Sequence[Row], origins: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    columns = (
        "blocks", "parameters", "budget_megabytes", "examples", "seconds", "tracing_seconds",
    )  # fmt: skip
    return [
        "## Planning, before anything is computed",
        "`explain` of full kernels of vision transformers of the size of ViT-S/16 but for their "
        "depth, 8 inputs of 1000 outputs, on shapes alone. Seconds are of the CPU, the last ones "
        "those in which JAX linearises the network without any of this library's code.",
        _table(_PLANNING, [[row[column] for column in columns] for row in rows]),
        _made(rows, origins),
    ]


def _certificate(rows: Sequence[Row], origins: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    columns = (
        "precision", "kernel_milliseconds", "check_milliseconds", "check_megabytes", "deviation",
        "tolerance",
    )  # fmt: skip
    lines = [
        [row["network"], row["n"], row["o"], row["outputs"], _card(origins[row["run"]])]
        + [row[column] for column in columns]
        for row in rows
    ]
    return [
        "## The certificate of a kernel",
        "What `check=True`, and the hook at its first measurement, second, fourth, eighth and so "
        "on, takes beside the kernel: plain derivatives of f on the whole batch, one backward pass "
        "at a time, without compilation. The deviation is that of v\u1d40\u0398v from "
        "\u2016J\u1d40v\u2016\u00b2; above the tolerance a kernel counts as wrong. On a GPU "
        "products in the default precision are rounded to TF32.",
        _table(_CERTIFICATE, lines),
        _made(rows, origins),
    ]


def _card(origin: Mapping[str, Any]) -> str:
    """H100 of "NVIDIA H100 80GB HBM3": rows of different cards are not to be compared."""
    return str(origin["devices"][0]).removeprefix("NVIDIA ").split()[0]


def _is_shown(row: Row) -> bool:
    """Whether the row is more than the reference itself."""
    return row["precision"] != "float64" or bool(row["relative_error"])


def _overhead(rows: Sequence[Row], origins: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    columns = (
        "network", "outputs", "batch", "device", "way", "median_ms", "p90_ms", "p99_ms", "max_ms",
        "kernel_ms", "measurements", "overhead_percent", "mean_percent", "beyond_kernel_percent",
        "error_percent",
    )  # fmt: skip
    probe, every = rows[0]["probe"], rows[0]["every"]
    return [
        "## What the hook costs a training loop",
        f"Traced kernels of {probe} images every {every} steps, in turns: no hook; no hook, but "
        "the kernel's own program, waited for; the hook as it is, waited for by the loop, and "
        "bounded by `max_overhead=0.01`. In per cent of the time without a hook: all that the loop "
        "took longer, by the median of the rounds and by their mean, and how much longer it took "
        "than with as many kernels and no hook, by the median, with its standard error.",
        _table(_OVERHEAD, [[row[column] for column in columns] for row in rows]),
        _made(rows, origins),
    ]


def _agreement(rows: Sequence[Row], origin: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    largest = max(float(row["relative_difference"]) for row in rows)
    return [
        "## Agreement with neural-tangents 0.6.5",
        f"{len(rows)} kernels in float64, of every combination of axes and every implementation: "
        f"the largest relative difference is {largest:.1e}.",
        "How it was made:\n\n" + _line(origin),
    ]


def _peer_tests(rows: Sequence[Row], origins: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    groups = dict.fromkeys((row["test"].rpartition("::")[0], row["cases"]) for row in rows)
    lines = []
    for group, cases in groups:
        of_group = [r for r in rows if r["test"].startswith(f"{group}::") and r["cases"] == cases]
        counts = [
            str(sum(row[library] == outcome for row in of_group))
            for library in ("peer", "ours")
            for outcome in ("passed", "failed", "skipped")
        ]
        lines.append([group, cases, *counts])
    return [
        "## The tests of neural-tangents 0.6.5",
        "Its test files, with its own implementation and with ours in its place; what is skipped "
        "with both is what JAX cannot differentiate, axes that exclude each other, or what the "
        "peer thinks too large for a CPU. "
        "`rules_test.py` is about code of the peer that the drop-in has no counterpart of.",
        _table(_PEER_TESTS, lines),
        *_on_purpose(rows),
        _made(rows, origins),
    ]


def _on_purpose(rows: Sequence[Row]) -> list[str]:
    reasons = {row["test"]: row["on_purpose"] for row in rows if row["on_purpose"]}
    listed = "\n".join(f"- `{test}` {reason}" for test, reason in reasons.items())
    return [f"These the drop-in fails on purpose:\n\n{listed}"] if reasons else []


def _made(rows: Iterable[Row], origins: Mapping[str, Any]) -> str:
    """Where the rows come from, run by run."""
    runs = dict.fromkeys(row["run"] for row in rows)
    return "How it was made:\n\n" + "\n".join(_line(origins[run], f"{run}: ") for run in runs)


def _line(origin: Mapping[str, Any], run: str = "") -> str:
    devices = ", ".join(origin["devices"])
    versions = f"Python {origin['python']}, JAX {origin['jax']}, commit {origin['commit']}"
    return f"- {run}`{origin['command']}` on {devices} ({origin['processor']}), {versions}"


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    PAGE.write_text(page())
