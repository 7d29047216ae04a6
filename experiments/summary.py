"""What a table of `benchmark_implementations` says in a few numbers, from its rows alone."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Row = Mapping[str, object]

OURS = ("structured", "jacobian_contraction", "ntk_vector_products")
WITHIN = 1.25


class Cell(NamedTuple):
    """One network, N and O.

    Attributes:
      family: of the network.
      name: with N and O.
      milliseconds: of `auto`.
      chosen: the implementation that it took.
      over_own_best: its time over the fastest of ours.
      noise: its time over that of the same implementation, compiled on its own.
      over_jacobian: time of our Jacobian contraction over its time, NaN where not measured.
      peer: the fastest of the peer's, or "" where not measured.
      peer_over_auto: time of that one over its time.
      peer_memory_over_auto: temporary memory and result of that one over its own.
    """

    family: str
    name: str
    milliseconds: float
    chosen: str
    over_own_best: float
    noise: float
    over_jacobian: float
    peer: str
    peer_over_auto: float
    peer_memory_over_auto: float


def cells_of(rows: Sequence[Row]) -> list[Cell]:
    """A cell for each network, N and O, in the order of the rows."""
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        cell = tuple(str(row[column]) for column in ("family", "case", "n", "o"))
        groups.setdefault(cell, {})[str(row["implementation"])] = row
    return [_cell(cell, group) for cell, group in groups.items() if "auto" in group]


def _cell(cell: tuple[str, ...], group: Mapping[str, Row]) -> Cell:
    family, case, n, o = cell
    times = {name: float(str(row["milliseconds"])) for name, row in group.items()}
    memory = {name: float(str(row["peak_megabytes"])) for name, row in group.items()}
    auto, chosen = times["auto"], str(group["auto"]["chosen"])
    peers = [name for name in times if name.startswith("nt ")]
    peer = min(peers, key=times.__getitem__, default="")
    return Cell(
        family=family,
        name=f"{case}, N {n}, O {o}",
        milliseconds=auto,
        chosen=chosen,
        over_own_best=auto / min(times[name] for name in ("auto", *OURS) if name in times),
        noise=auto / times.get(chosen, math.nan),
        over_jacobian=times.get("jacobian_contraction", math.nan) / auto,
        peer=peer,
        peer_over_auto=times.get(peer, math.nan) / auto,
        peer_memory_over_auto=memory.get(peer, math.nan) / memory["auto"],
    )


def geometric_mean(values: Sequence[float]) -> float:
    """Of those that are numbers; NaN if none is."""
    logarithms = [math.log(value) for value in values if not math.isnan(value)]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else math.nan


def totals(cells: Sequence[Cell]) -> list[list[str]]:
    """A line for each family and one for all: what `TOTALS` names."""
    families = list(dict.fromkeys(cell.family for cell in cells))
    groups = {family: [c for c in cells if c.family == family] for family in families}
    if len(families) > 1:
        groups["all"] = list(cells)
    return [[name, *_total(group)] for name, group in groups.items()]


TOTALS = (
    "family", "cells", "peer / auto: mean", "min", "max", "memory: mean", "min",
    f"auto within {WITHIN}", "worst", "noise",
)  # fmt: skip


def _total(cells: Sequence[Cell]) -> list[str]:
    peers = [cell.peer_over_auto for cell in cells if cell.peer]
    memory = [cell.peer_memory_over_auto for cell in cells if cell.peer]
    within = sum(cell.over_own_best <= WITHIN for cell in cells)
    numbers = [
        geometric_mean(peers), min(peers, default=math.nan), max(peers, default=math.nan),
        geometric_mean(memory), min(memory, default=math.nan),
    ]  # fmt: skip
    worst = max(cell.over_own_best for cell in cells)
    noise = max((abs(math.log(c.noise)) for c in cells if not math.isnan(c.noise)), default=0.0)
    return [
        str(len(cells)),
        *(f"{number:.2f}" for number in numbers),
        f"{within} of {len(cells)}",
        f"{worst:.2f}",
        f"{math.exp(noise):.2f}",
    ]
