"""What a run keeps of its kernels beside a checkpoint, so that it goes on as if it had not stopped.

    references    the kernels that later ones are compared with
    histories     the numbers so far, for pictures of curves
    stop          why the kernel ended the run, if it did

As plain arrays by name: `train/initial`, `train/history/values`, `reason`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ntk_train.monitor import HookSet
from ntk_train.monitor.history import History
from ntk_train.spectrum import ReferenceKernels

_HISTORY = "/history"


@dataclasses.dataclass(frozen=True)
class Stop:
    """The end of a run before its last step.

    Attributes:
      reason: of the hook.
      bound: `config.ntk.stop_above_condition_number`.
    """

    reason: str
    bound: float

    def holds(self, config: ConfigDict) -> bool:
        """Whether the run would stop here by this config as well: the bound is no higher."""
        return config.ntk.enabled and 0 < config.ntk.stop_above_condition_number <= self.bound


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """What is kept.

    Attributes:
      references: of each probe that has some, by its name.
      histories: the same.
      stop: None where the run has not been stopped.
    """

    references: Mapping[str, ReferenceKernels] = dataclasses.field(default_factory=dict)
    histories: Mapping[str, History] = dataclasses.field(default_factory=dict)
    stop: Stop | None = None

    @classmethod
    def of(cls, hook: HookSet | None, stop: Stop | None) -> "Kept":
        """What there is to keep of hooks; waits for a measurement under way."""
        if hook is None:
            return cls()
        references = hook.references
        return cls(references, {name: hook[name].history for name in references}, stop)

    def to_dict(self) -> dict[str, np.ndarray]:
        """Plain arrays; none where there are no references."""
        groups = {name: kept.to_dict() for name, kept in self.references.items()}
        groups |= {f"{name}{_HISTORY}": kept.to_dict() for name, kept in self.histories.items()}
        arrays = {
            f"{name}/{key}": array for name, group in groups.items() for key, array in group.items()
        }
        if self.stop is not None:
            arrays |= {"reason": np.array(self.stop.reason), "bound": np.array(self.stop.bound)}
        return arrays

    @classmethod
    def from_dict(cls, arrays: Mapping[str, Any]) -> "Kept":
        """What `to_dict` wrote.

        Raises:
          KeyError, KernelInputError: an array is missing.
        """
        groups: dict[str, dict[str, Any]] = {}
        for key, array in arrays.items():
            group, _, name = key.rpartition("/")
            groups.setdefault(group, {})[name] = array
        own = groups.pop("", None)
        histories = {
            name.removesuffix(_HISTORY): History.from_dict(groups.pop(name))
            for name in list(groups)
            if name.endswith(_HISTORY)
        }
        return cls(
            {name: ReferenceKernels.from_dict(group) for name, group in groups.items()},
            histories,
            None if own is None else Stop(str(own["reason"]), float(own["bound"])),
        )
