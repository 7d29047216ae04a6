"""The folder of a kernel, and what it is of.

`kernel.npy` has the numbers, which `numpy.load(..., mmap_mode="r")` opens without reading them,
`done.npy` says of each tile whether it is there, and `about.json` what the kernel is of: with
another function, other parameters or other inputs it is not gone on with.
"""

import errno
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ntk_train.errors import KernelInputError
from ntk_train.kernel.assemble import mirrored_axes
from ntk_train.kernel.pair import Sides
from ntk_train.kernel.rows import block_starts

# How far outputs of f may be apart, relative to the largest, and be those of one function: they may
# come from another device, but not from other parameters.
_SAME = 1e-3
_ABOUT = "about.json"
_ARRAYS = ("kernel.npy", "done.npy")


def sizes_in(folder: pathlib.Path) -> tuple[int, int] | None:
    """Examples of x1 and x2 in a tile of the kernel that a folder has a part of, if it has."""
    about = _kept_about(folder)
    return None if about is None else tuple(about["tile"])


def _kept_about(folder: pathlib.Path) -> dict[str, Any] | None:
    """What the kernel of a folder is of; None where there is none.

    Raises:
      KernelInputError: a part of it is missing or damaged.
    """
    path = folder / _ABOUT
    if not path.exists():
        return None
    try:
        about = json.loads(path.read_text())
        complete = "tile" in about and all((folder / name).exists() for name in _ARRAYS)
    except (ValueError, TypeError):
        complete = False
    if not complete:
        msg = f"{folder} has a damaged kernel: {[_ABOUT, *_ARRAYS]} belong together. Empty it."
        raise KernelInputError(msg)
    return about


class Store:
    """The folder of a kernel.

    Attributes:
      sizes: examples of x1 and x2 in a tile.
      starts: where tiles start on either side; the last may overlap the one before it.
      mirrored: axes that make a tile the one across the diagonal; None if there is none.
    """

    def __init__(
        self, folder: pathlib.Path, sides: Sides, sizes: tuple[int, int], about: Mapping[str, Any]
    ) -> None:
        both = sides.sizes[0], sides.sizes[-1]
        self.sizes = sizes
        self.starts = [
            block_starts(n, size) if n else [] for n, size in zip(both, sizes, strict=True)
        ]
        self.mirrored = mirrored_axes(sides.layout) if len(sides.inputs) == 1 else None
        layout = sides.layout
        self._axes = [layout.out.index(side[0]) for side in (layout.left, layout.right)]
        self._folder = folder
        about = {"shape": list(sides.shape), "tile": list(sizes), **about}
        if not self._goes_on(about):
            self._begin(about, sides.shape)
        self._kernel = np.load(folder / "kernel.npy", mmap_mode="r+")
        self._done = np.load(folder / "done.npy", mmap_mode="r+")

    def _goes_on(self, about: Mapping[str, Any]) -> bool:
        """Whether the folder has a part of this kernel.

        Raises:
          KernelInputError: it has another one.
        """
        kept = _kept_about(self._folder)
        if kept is None:
            return False
        other = [name for name in about if not _agree(name, kept.get(name), about[name])]
        if other:
            differences = "; ".join(f"{v} was {kept.get(v)}, now {about[v]}" for v in other)
            msg = (
                f"{self._folder} has the kernel of something else: {differences[:800]}. Give the "
                "arguments that it was begun with, or another folder."
            )
            raise KernelInputError(msg)
        return True

    def _begin(self, about: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        """An empty kernel; what it is of is written last, so that a half-made folder has none."""
        folder = self._folder
        if folder.exists() and not folder.is_dir():
            msg = f"{folder} is a file; expected a folder for the kernel."
            raise KernelInputError(msg)
        if folder.exists() and {own.name for own in folder.iterdir()} - {*_ARRAYS, f"{_ABOUT}.new"}:
            msg = f"{folder} is not empty and has no kernel; expected a folder for it alone."
            raise KernelInputError(msg)
        folder.mkdir(parents=True, exist_ok=True)
        needed = math.prod(shape) * np.dtype(about["dtype"]).itemsize
        free = shutil.disk_usage(folder).free
        if needed > free:
            msg = (
                f"the kernel takes {needed / 1e9:.4g} GB and {folder} has {free / 1e9:.4g} GB "
                "left; give a folder on another disk, fewer examples, or outputs='trace'."
            )
            raise KernelInputError(msg)
        for name, dtype, size in (
            ("kernel.npy", about["dtype"], shape),
            ("done.npy", "bool", tuple(map(len, self.starts))),
        ):
            np.lib.format.open_memmap(folder / name, mode="w+", dtype=dtype, shape=size).flush()
            _take_room(folder / name)
        new = folder / f"{_ABOUT}.new"
        new.write_text(json.dumps(about, indent=2) + "\n")
        new.replace(folder / _ABOUT)

    def places(self) -> Iterator[tuple[int, int]]:
        """Numbers of all tiles that are to be computed, row by row."""
        for i in range(len(self.starts[0])):
            for j in range(i if self.mirrored else 0, len(self.starts[1])):
                yield i, j

    def start(self, side: int, place: tuple[int, int]) -> int:
        """The first example of a tile on one side."""
        return self.starts[side][place[side]]

    def has(self, place: tuple[int, int]) -> bool:
        """Whether a tile is there."""
        return bool(self._done[place])

    def write(self, place: tuple[int, int], tile: np.ndarray) -> int:
        """Puts a tile in its place and across the diagonal, and only then says that it is there.

        Returns:
          How many entries of the kernel that were.
        """
        self._kernel[self._at(place)] = tile
        is_mirrored = self.mirrored is not None and place[0] != place[1]
        if is_mirrored:
            self._kernel[self._at(place[::-1])] = tile.transpose(self.mirrored)
        self._kernel.flush()
        self._done[place] = True
        self._done.flush()
        return tile.size * (1 + is_mirrored)

    def _at(self, place: tuple[int, int]) -> tuple[slice, ...]:
        """Where a tile is in the kernel."""
        slices = [slice(None)] * self._kernel.ndim
        for side, axis in enumerate(self._axes):
            start = self.start(side, place)
            slices[axis] = slice(start, start + self.sizes[side])
        return tuple(slices)

    def finished(self) -> np.memmap:
        """The kernel, to be read."""
        del self._kernel, self._done
        return np.load(self._folder / "kernel.npy", mmap_mode="r")


def _take_room(path: pathlib.Path) -> None:
    """Takes a file's room on the disk, which would end the process where it is written later.

    Raises:
      OSError: the disk is full.
    """
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except AttributeError:  # not of this system
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not of this file system
                raise


def _agree(name: str, kept: Any, now: Any) -> bool:
    if name == "program of f" and kept is not None:
        # Another version of JAX may write the same program otherwise.
        versions = [text.partition(" by ")[2] for text in (kept, now)]
        return kept == now or versions[0] != versions[1]
    if name != "outputs of f" or kept is None or len(kept) != len(now):
        return kept == now
    kept, now = ([v if math.isfinite(v) else 0.0 for v in own] for own in (kept, now))
    # They may come from another device, or another version of JAX.
    scale = max(map(abs, kept), default=0.0)
    return all(abs(a - b) <= _SAME * scale for a, b in zip(kept, now, strict=True))
