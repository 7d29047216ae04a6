"""How many bytes a kernel may take: half as many each time that memory runs out."""

from ntk_train.kernel.machine import this_machine

_LEAST = 2**24  # bytes; below, one row at a time takes no less


class MemoryBudget:
    """The bytes that are allowed, as `memory_budget` of `ntk_train.ntk`.

    Attributes:
      bytes: None for what the kernel takes by itself, which is so until memory runs out.
    """

    def __init__(self) -> None:
        self.bytes: float | None = None

    def halve(self, taken: int | None = None) -> bool:
        """Allows half as much; returns False where that would be of no use.

        Args:
          taken: by the program that failed, if that is known. Less than its budget where there was
            room for all of it, so that half of the budget would change nothing.
        """
        allowed = this_machine(self.bytes).memory
        half = min(allowed, taken or allowed) / 2
        if half < _LEAST:
            return False
        self.bytes = half
        return True
