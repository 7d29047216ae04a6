"""How long does it take to plan a kernel, before anything is computed?

`ntk_train.explain` of full kernels of vision transformers of the size of ViT-S/16 but for their
depth, on shapes alone, without a memory budget and within one that takes blocks of few examples. A
row for each: seconds of the CPU (other programs do not count), and how many of them it takes JAX to
linearise the network alone, without any of this library's code.

    python -m experiments.benchmark_planning                       # 2 minutes on 2 CPU cores
    python -m experiments.benchmark_planning --smoke --out /tmp/smoke
"""

import argparse
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import ntk_train
from experiments.record import RESULTS, merge_table
from ntk_train import linen_fn, models

TABLE = "benchmark_planning"
KEY = ("blocks", "budget_megabytes")
BLOCKS, BUDGETS = (12, 24, 48, 96), (None, 1e9)
EXAMPLES, OUTPUTS, PIXELS = 8, 1000, 224
Row = dict[str, Any]


def rows_of(blocks: int) -> Iterator[Row]:
    """A row for each budget."""
    model = models.create_model("vit-s/16", num_outputs=OUTPUTS, depth=blocks)
    x = jax.ShapeDtypeStruct((EXAMPLES, PIXELS, PIXELS, 3), jnp.float32)
    f, params = linen_fn(model), jax.eval_shape(model.init, jax.random.key(0), x)["params"]

    def linearised(params: Any, x: jax.Array) -> Any:
        return jax.linearize(lambda params: f(params, x[:1]), params)[0]

    tracing, _ = cpu_seconds(lambda: jax.eval_shape(linearised, params, x))
    for budget in BUDGETS:
        explain = functools.partial(ntk_train.explain, f, params, x, memory_budget=budget)
        seconds, explained = cpu_seconds(explain)
        plan = explained.plan
        yield {
            "blocks": blocks,
            "parameters": len(jax.tree.leaves(params)),
            "budget_megabytes": f"{budget / 1e6:.4g}" if budget else "",
            "seconds": f"{seconds:.2f}",
            "tracing_seconds": f"{tracing:.2f}",
            "examples": plan.tiles.size if plan.tiles else EXAMPLES,
            "cut": "yes" if plan.inner else "no",
        }


def cpu_seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the CPU, with nothing traced before, and the result."""
    jax.clear_caches()
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def main() -> None:
    """Measures, prints and keeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the table")
    parser.add_argument("--smoke", action="store_true", help="two blocks, to try the script")
    arguments = parser.parse_args()
    if arguments.smoke and arguments.out == RESULTS:
        parser.error("--smoke needs --out: its numbers are no results")
    rows: list[Row] = []
    for blocks in (2,) if arguments.smoke else BLOCKS:
        for row in rows_of(blocks):
            print("  ".join(str(value) for value in row.values()), flush=True)
            rows.append(row)
            merge_table(TABLE, rows, KEY, arguments.out)


if __name__ == "__main__":
    main()
