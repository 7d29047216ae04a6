"""What a plan has to know of a device, and how it counts time there."""

from typing import NamedTuple

import jax


class Machine(NamedTuple):
    """A kind of device.

    Attributes:
      balance: the machine balance: operations of a matrix product in the time of one number to
        memory or back.
      block: bytes of patches and cotangents that a block of examples may take; more than a cache
        holds is slower on a CPU, and fewer examples at once are slower on an accelerator.
      memory: bytes that a kernel may take beside its inputs and itself.
      tile: rows and columns of a tile of the kernel.
      copied_per_product: numbers copied in the time that it takes to start one more product.
      is_accelerator: whether one batched product is faster than many small ones.
      columns: how many tiles of the kernel, of some examples of x2 each, are worth a part of the
        program of their own.
      kind: as `jax.default_backend` says it.
      in_terms: whether a product in float32 is faster as three of TF32 terms.
      stacked: how many numbers of the cotangents of small layers of equal sizes are copied, so that
        their full Grams are one, in less time than the products apart take more.
    """

    balance: int
    block: float
    memory: float
    tile: int
    copied_per_product: int
    is_accelerator: bool
    columns: int
    stacked: int
    kind: str = "cpu"
    in_terms: bool = False


# Measured for "cpu" (2 cores, 32 MB of cache) and "gpu" (H200); "tpu" from data sheets.
MACHINES = {
    "cpu": Machine(30, 4e6, 8e9, 256, 16_000, False, 8, 500, "cpu"),
    "gpu": Machine(30, 8e9, 32e9, 4096, 1_000_000, True, 4, 5_000_000, "gpu"),
    "tpu": Machine(100, 2e9, 8e9, 4096, 1_000_000, True, 4, 5_000_000, "tpu"),
}

# GPUs on which three TF32 terms were measured to be faster than float32, and as exact.
_IN_TERMS = ("H100", "H200")

# Parts of the memory: of an accelerator's, the parameters and the optimizer's state stay there
# too; of that, half is for the rows that are kept, an eighth for what is in between.
_OF_DEVICE = 0.75
ROWS, BETWEEN = 1 / 2, 1 / 8


class Cost(NamedTuple):
    """Of one computation.

    Attributes:
      operations: multiplications and additions.
      traffic: numbers that go to memory or back.
    """

    operations: int
    traffic: int

    def time(self, machine: Machine) -> int:
        """In operations of a matrix product."""
        return self.operations + machine.balance * self.traffic


def this_machine(memory_budget: float | int | None = None) -> Machine:
    """The kind of device that JAX computes on by default.

    Args:
      memory_budget: bytes that a kernel may take, None for most of what the device has.
    """
    kind = jax.default_backend()
    machine = MACHINES.get(kind, MACHINES["gpu"])
    if machine.kind == "gpu":
        name = jax.local_devices()[0].device_kind
        machine = machine._replace(in_terms=any(own in name for own in _IN_TERMS))
    if memory_budget is None and kind != "cpu":
        limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
        memory_budget = _OF_DEVICE * limit if limit else None
    if memory_budget is None:
        return machine
    block = min(machine.block, BETWEEN * memory_budget)
    return machine._replace(memory=memory_budget, block=block)
