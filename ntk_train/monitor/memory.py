"""How many bytes the blocks of a kernel may take: half as many each time that memory runs out."""

import inspect

import jax

from ntk_train.kernel import ntk

_LEAST = 2**24  # bytes; below, blocks of one row are no smaller
_UNKNOWN = 2**32  # where a device does not say how much it has


class MemoryBudget:
    """The bytes that are allowed.

    Attributes:
      bytes: None for what the kernel takes by itself, which is so until memory runs out.
    """

    def __init__(self) -> None:
        self.bytes: float | None = None

    def halve(self, asked_for: int | None = None) -> bool:
        """Allows half as much; returns False where that would be of no use.

        Args:
          asked_for: what the program took that failed, if that is known.
        """
        if "memory_budget" not in inspect.signature(ntk).parameters:
            return False
        offered = asked_for or _offered()
        now = offered if self.bytes is None else min(self.bytes, offered)
        if now / 2 < _LEAST:
            return False
        self.bytes = now / 2
        return True


def _offered() -> int:
    """The memory of the device, as far as it says."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", _UNKNOWN)
