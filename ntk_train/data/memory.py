"""Arrays whose memory is used again once nobody refers to them.

A batch of 64 photos in float32 is 38 MB. New from the system every time, its pages are cleared and
mapped first, which takes as long as the normalisation that writes it.

>>> memory = Memory()
>>> array = memory.empty((2, 3), "float32")
>>> array.shape
(2, 3)
"""

import collections
import math
import weakref
from typing import Any

import numpy as np

_KEPT = 8  # blocks that wait; one for each batch that is read ahead, and some


class Memory:
    """Makes arrays of one size, from blocks that earlier ones have left."""

    def __init__(self) -> None:
        self._free: collections.deque[np.ndarray] = collections.deque(maxlen=_KEPT)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array with any content, as `np.empty`. Threads may call it at the same time."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        try:
            block = self._free.pop()
        except IndexError:
            block = np.empty(size, np.uint8)
        if len(block) != size:
            block = np.empty(size, np.uint8)
        owner = _Owner(block)
        weakref.finalize(owner, self._free.append, block).atexit = False
        return np.asarray(owner).view(dtype).reshape(shape)


class _Owner:
    """What the array and all views of it refer to; the block is free when it goes.

    NumPy's views refer past other arrays to what owns their memory, which a plain array would be.
    """

    def __init__(self, block: np.ndarray) -> None:
        self.__array_interface__ = block.__array_interface__
