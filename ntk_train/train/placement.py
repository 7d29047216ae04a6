"""Where the state and the batches of a run lie: on one device, or on those of several processes.

    one process          state and batches on its first device
    P processes          a mesh of all their devices; the state is whole on each of them,
                         a batch is divided: process p reads the p-th slice of it and no more

The compiled steps are the same in both, written for the whole batch: XLA adds up the gradients, and
BatchNorm takes its statistics over all of it. Processes are joined by `jax.distributed.initialize`.
"""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from ntk_train._types import PyTree
from ntk_train.train.config import ConfigError


class Placement:
    """The devices of a run.

    Attributes:
      process_index: which process this is.
      process_count: how many there are.
      replicated: how the state lies on the devices of several processes; None if there is one.
    """

    def __init__(self) -> None:
        self.process_index, self.process_count = jax.process_index(), jax.process_count()
        self.replicated: NamedSharding | None = None
        if self.process_count > 1:
            devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
            mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
            self.replicated = NamedSharding(mesh, PartitionSpec())

    def check(self, config: ConfigDict) -> None:
        """Refuses batches that cannot be divided among the devices.

        Raises:
          ConfigError: a batch size is not a multiple of their number.
        """
        count = 1 if self.replicated is None else self.replicated.mesh.size
        for name in ("batch_size", "eval_batch_size"):
            if config[name] % count:
                msg = (
                    f"config.{name}={config[name]} is divided among {count} devices of "
                    f"{self.process_count} processes; expected a multiple of {count}."
                )
                raise ConfigError(msg)

    def batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch of all processes, of the slice that each has read."""
        if self.replicated is None:
            return batch
        divided = NamedSharding(self.replicated.mesh, PartitionSpec("data"))
        return {
            name: jax.make_array_from_process_local_data(divided, part)
            for name, part in batch.items()
        }

    def everywhere(self, tree: PyTree) -> PyTree:
        """Arrays that all processes have the same of, as arrays of all of them."""
        if self.replicated is None:
            return tree
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(self.replicated, np.asarray(leaf)),
            tree,
        )

    def agreed(self, value: bool) -> bool:
        """What the first process says; all have to ask at the same point of the run."""
        if self.replicated is None:
            return value
        return bool(multihost_utils.broadcast_one_to_all(np.asarray(value, np.int32)))

    def anywhere(self, value: bool) -> bool:
        """Whether it is so in one process at least; all have to ask at the same point."""
        if self.replicated is None:
            return value
        return bool(multihost_utils.process_allgather(np.asarray(value, np.int32)).any())

    def here(self, tree: PyTree) -> PyTree:
        """The copies of this process, on its first device."""
        if self.replicated is None:
            return tree
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
