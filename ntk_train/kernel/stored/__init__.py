"""A kernel that is written to a disk tile by tile, and goes on from there if it is stopped."""

import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ntk_train._arguments import whole_number
from ntk_train._types import ApplyFn, ParamFilter, PyTree
from ntk_train.errors import KernelInputError
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.pair import Sides, sides_of
from ntk_train.kernel.precision import precision_of_products
from ntk_train.kernel.problem import on_one_device, warn_of_coupling
from ntk_train.kernel.stored.programs import Programs
from ntk_train.kernel.stored.progress import Progress, shown
from ntk_train.kernel.stored.store import Store, sizes_in
from ntk_train.kernel.whole import usual_promotion

# Examples on a side of a tile that are tried first: more keep a device no busier.
_LARGEST, _LARGEST_ON_CPU = 2048, 256


def ntk_to(
    folder: str | os.PathLike,
    f: ApplyFn,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None = None,
    *,
    outputs: Any = "trace",
    implementation: str = "auto",
    precision: str | None = "float32",
    param_filter: ParamFilter | None = None,
    memory_budget: float | int | None = None,
    model_state: PyTree = None,
    tile: int | None = None,
    progress: bool | Callable[[Progress], None] = True,
) -> np.memmap:
    """Writes a kernel that is too large for the memory to a disk, tile by tile.

    A call with the same arguments goes on from what is written, also after `kill -9` in a tile, to
    the same numbers. Of the kernel of x1 with itself half of the tiles are computed. Another f is
    known by its program and by the arrays that it closes over (by its outputs alone where another
    version of JAX goes on), other parameters and inputs by checksums.

    Args:
      folder: for this kernel alone; it is made if it is not there.
      f: as in `ntk_train.ntk`, for independent examples.
      params: as in `ntk_train.ntk`.
      x1: N inputs, on the host or a device.
      x2: M other inputs, or None.
      outputs: as in `ntk_train.ntk`.
      implementation: as in `ntk_train.ntk`.
      precision: as in `ntk_train.ntk`.
      param_filter: as in `ntk_train.ntk`.
      memory_budget: bytes that a tile may take on the device, as in `ntk_train.ntk`.
      model_state: as in `ntk_train.ntk`.
      tile: examples on either side of a tile; None for as many as keep the device busy and have
        the rows of their factored Jacobian in memory, or as the folder has them already.
      progress: True shows tiles, entries per second and the time left on the standard error; a
        function gets a `Progress` after each tile; False says nothing.

    Returns:
      The kernel in the shape that `ntk_train.ntk` gives it, mapped from `folder/kernel.npy` to be
      read.

    Raises:
      KernelInputError: as `ntk_train.ntk`; or the folder has the kernel of something else, or the
        disk has too little room.
      OSError: it cannot be written.
    """
    options = KernelOptions(
        outputs=outputs,
        implementation=implementation,
        precision=precision,
        param_filter=param_filter,
        memory_budget=memory_budget,
    )
    if tile is not None:
        tile = whole_number("tile", tile, "examples on a side of a tile, or None", least=1)
    if any(isinstance(v, jax.core.Tracer) for v in jax.tree.leaves((params, x1, x2, model_state))):
        msg = "ntk_to writes numbers, which are not known under jax.jit, jax.vmap or jax.grad."
        raise KernelInputError(msg)
    x1, x2 = on_one_device("x1", x1), on_one_device("x2", x2)
    with precision_of_products(precision), usual_promotion():
        sides = sides_of(f, params, x1, x2, options, model_state)
        warn_of_coupling(sides.coupling)
        programs = Programs(f, (params, model_state), sides, options)
        path = pathlib.Path(folder)
        kept = None if tile else sizes_in(path)
        sizes = kept or _sizes_of(programs, sides, tile)
        store = Store(path, sides, sizes, programs.about(sizes))
        _fill(store, programs, shown(progress))
    return store.finished()


def _sizes_of(programs: Programs, sides: Sides, tile: int | None) -> tuple[int, int]:
    """Examples of x1 and x2 in a tile."""
    n, m = sides.sizes[0], sides.sizes[-1]
    largest = _LARGEST_ON_CPU if jax.default_backend() == "cpu" else _LARGEST
    size = tile or min(largest, max(n, m, 1))
    while tile is None and size > 1:
        sizes = min(size, n), min(size, m)
        if 0 in sizes or programs.fits(sizes):
            break
        size = -(-size // 2)
    return min(size, n), min(size, m)


def _fill(store: Store, programs: Programs, show: Callable[[Progress], None]) -> None:
    """Computes and writes the tiles that are not there, the next one while one is written."""
    missing = [place for place in store.places() if not store.has(place)]
    total = sum(1 for _ in store.places())
    done, entries, begin = total - len(missing), 0, time.monotonic()
    show(Progress(done, total, 0.0, math.inf if missing else 0.0))
    if not missing:
        return

    def write(place: tuple[int, int], tile: jax.Array) -> None:
        nonlocal done, entries
        entries += store.write(place, np.asarray(tile))
        done += 1
        seconds = time.monotonic() - begin
        left = seconds / (done - total + len(missing)) * (total - done)
        show(Progress(done, total, entries / max(seconds, 1e-9), left))

    is_one = programs.is_one(store.sizes)
    waiting, row, left = None, None, None
    for place in missing:
        if row != place[0]:
            row, left = place[0], programs.side(0, store.start(0, place), store.sizes)
        right = left
        if not (is_one and place[0] == place[1]):
            right = programs.side(0 if is_one else 1, store.start(1, place), store.sizes)
        tile = programs.tile(left, right, store.sizes)
        if waiting is not None:
            write(*waiting)
        waiting = place, tile
    if waiting is not None:
        write(*waiting)
