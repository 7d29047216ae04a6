"""Does TE-NAS's proxy order networks as the full kernel's condition number does?

All 64 cells of a small search space: three nodes, an edge from each to each later one, and on each
edge an identity, a 1 x 1 convolution, a 3 x 3 convolution or an average pooling (convolutions with
BatchNorm and ReLU before them, 12 channels: with fewer than the ten outputs every full kernel would
be singular), between a 3 x 3 convolution and a linear classifier; on 16 images of scikit-learn's
digits, in float64, the mean over three initialisations.

For each: the proxy (the kernel of the sum of the outputs, BatchNorm in train mode, weights only),
and the condition numbers of the traced and of the full kernel of all parameters, in train mode.
Prints Kendall's tau between each pair, and keeps a table and a picture.

    python -m experiments.te_nas_proxy --save

A CPU, about 15 minutes on a busy machine of two cores. Expected: tau 0.91 of the proxy and the
trace, 0.89 of the proxy and the full kernel, 0.89 of the trace and the full kernel.
"""

import argparse
import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from experiments.record import RESULTS, save_table
from ntk_train import kernel_spectrum, ntk
from ntk_train.spectrum import te_nas_condition_number

OPERATIONS = ("identity", "conv 1x1", "conv 3x3", "pool 3x3")
EDGES = ((0, 1), (0, 2), (1, 2))
SEEDS = (0, 1, 2)
TABLE = "te_nas_proxy"
MEASURES = ("te_nas", "trace", "full")


class Cell(nn.Module):
    """Every operation on every edge; `choice` [edges, operations] is 1 for the one that counts."""

    channels: int = 12

    @nn.compact
    def __call__(self, x: jax.Array, choice: jax.Array) -> jax.Array:
        """Logits [N, 10]."""
        dtype = x.dtype
        conv = functools.partial(nn.Conv, self.channels, use_bias=False, param_dtype=dtype)
        norm = functools.partial(nn.BatchNorm, use_running_average=False, param_dtype=dtype)
        nodes = [conv((3, 3))(x), 0, 0]
        for edge, (start, end) in enumerate(EDGES):
            h = nodes[start]
            active = nn.relu(norm()(h))
            options = (
                h,
                conv((1, 1))(active),
                conv((3, 3))(active),
                nn.avg_pool(h, (3, 3), padding="SAME"),
            )
            mixed = sum(c.astype(dtype) * y for c, y in zip(choice[edge], options, strict=True))
            nodes[end] = nodes[end] + mixed
        return nn.Dense(10, param_dtype=dtype)(nn.relu(norm()(nodes[-1])).mean((1, 2)))


MODEL = Cell()


def network(params: Any, x: jax.Array) -> jax.Array:
    """The cell that integer leaves of params choose, so that one program serves all cells."""
    weights = {"params": params["weights"], "batch_stats": params["statistics"]}
    return MODEL.apply(weights, x, params["choice"], mutable=["batch_stats"])[0]


def start(cell: tuple[int, ...], x: jax.Array, seed: int) -> dict[str, Any]:
    """Params of a cell at one initialisation."""
    choice = jnp.eye(len(OPERATIONS), dtype=jnp.int32)[jnp.asarray(cell)]
    variables = MODEL.init(jax.random.key(seed), x, choice)
    return {
        "weights": variables["params"],
        "statistics": variables["batch_stats"],
        "choice": choice,
    }


def is_weight_or_bias(path: str) -> bool:
    """Leaves out BatchNorm's running statistics."""
    return path.startswith("weights/")


@functools.partial(jax.jit, static_argnames="outputs")
def all_parameters(params: Any, x: jax.Array, outputs: str) -> Any:
    """The kernel of all parameters, in train mode."""
    return ntk(network, params, x, outputs=outputs, batched=False, param_filter=is_weight_or_bias)


def measure(cell: tuple[int, ...], x: jax.Array) -> tuple[dict[str, float], bool]:
    """Condition numbers of one cell, and whether one of them is only a lower bound."""
    starts = [start(cell, x, seed) for seed in SEEDS]
    proxy = te_nas_condition_number(network, None, x, params=starts)
    found, bound = {"te_nas": proxy.condition_number}, proxy.condition_is_lower_bound
    for outputs in ("trace", "full"):
        spectra = [kernel_spectrum(all_parameters(params, x, outputs)) for params in starts]
        found[outputs] = float(np.mean([spectrum.condition_number for spectrum in spectra]))
        bound = bound or any(spectrum.condition_is_lower_bound for spectrum in spectra)
    return found, bound


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's tau-a: pairs in the same order less those in the other, over all pairs."""
    i, j = np.triu_indices(len(a), 1)
    return float(np.mean(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])))


def draw(values: dict[str, np.ndarray], cells: list[tuple[int, ...]]) -> None:
    """The proxy over each of the others, coloured by the number of 3 x 3 convolutions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    count = np.array([cell.count(OPERATIONS.index("conv 3x3")) for cell in cells])
    shades = ("#c9c8c2", "#8fb4de", "#2a5d9f", "#12294a")
    for axes, other in zip(figure.subplots(1, 2), ("trace", "full"), strict=True):
        for number, shade in enumerate(shades):
            chosen = count == number
            label = f"{number} of 3 edges 3 x 3 convolutions"
            axes.loglog(
                values[other][chosen], values["te_nas"][chosen], "o", color=shade, label=label
            )
        tau = kendall(values["te_nas"], values[other])
        axes.set_title(f"Kendall's tau {tau:.2f}", loc="left", fontsize=10)
        axes.set_xlabel(f"condition number, {other} kernel, all parameters")
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("TE-NAS's proxy")
    figure.axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(RESULTS / f"{TABLE}.png", dpi=120)


def main() -> None:
    """Measures, prints and keeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="keep the table and the picture")
    parser.add_argument("--cells", type=int, help="only so many cells")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    x = jnp.asarray(load_digits().images[:16, :, :, None] / 16)
    cells = list(itertools.product(range(len(OPERATIONS)), repeat=len(EDGES)))[: arguments.cells]
    rows, found = [], []
    for cell in cells:
        values, bound = measure(cell, x)
        found.append(values)
        names = [OPERATIONS[operation] for operation in cell]
        rows.append((*names, *(f"{values[name]:.4g}" for name in MEASURES), int(bound)))
        print(*rows[-1], sep=", ", flush=True)
    columns = {name: np.array([values[name] for values in found]) for name in MEASURES}
    for one, other in itertools.combinations(MEASURES, 2):
        print(f"Kendall's tau of {one} and {other}: {kendall(columns[one], columns[other]):.2f}")
    if arguments.save:
        header = [f"edge_{start}{end}" for start, end in EDGES]
        save_table(TABLE, [*header, *MEASURES, "lower_bound"], rows)
        draw(columns, cells)


if __name__ == "__main__":
    main()
