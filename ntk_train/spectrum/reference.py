"""The kernels that later ones are compared with: at initialisation, and the previous one.

    initialisation K_0, previous K_s, now K_t  ->  relative change, distance, velocity, rotation

The record goes into a checkpoint as plain numpy arrays, so that a resumed run continues its curves
where they stopped, to the last bit.

>>> import numpy as np
>>> references = ReferenceKernels.start(np.diag([2.0, 1.0]), step=0)
>>> references.scalars(np.diag([4.0, 2.0]), step=10)["relative_change"]
1.0
>>> references = ReferenceKernels.from_dict(references.advance(np.eye(2), step=10).to_dict())
>>> references.previous_step
10
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ntk_train._arguments import check_type, whole_number
from ntk_train.errors import KernelInputError
from ntk_train.spectrum.change import (
    kernel_distance,
    kernel_velocity,
    principal_angles,
    relative_change,
)
from ntk_train.spectrum.convention import Convention, check_comparable, check_convention
from ntk_train.spectrum.eigen import checked_matrix

_KEYS = ("initial", "initial_step", "previous", "previous_step", "convention")


@dataclasses.dataclass(frozen=True, eq=False)
class ReferenceKernels:
    """The first and the previous kernel of a run; `start` makes it, `advance` replaces it.

    Attributes:
      initial: the kernel at initialisation, in the dtype in which it was computed.
      initial_step: its step.
      previous: the kernel of the last measurement.
      previous_step: its step.
      convention: of both; None where it was not stated.
    """

    initial: np.ndarray
    initial_step: int
    previous: np.ndarray
    previous_step: int
    convention: Convention | None = None

    @classmethod
    def start(
        cls, kernel: Any, step: int, convention: Convention | None = None
    ) -> "ReferenceKernels":
        """With the first kernel of a run, which is its own previous one.

        Raises:
          KernelInputError, DtypeError, NonFiniteKernelError: as `kernel_spectrum`; or the step or
            the convention is none.
        """
        checked_matrix(kernel)
        check_convention(convention)
        kernel, step = np.array(kernel), _step(step)
        return cls(kernel, step, kernel, step, convention)

    def advance(
        self, kernel: Any, step: int, convention: Convention | None = None
    ) -> "ReferenceKernels":
        """With this kernel as the previous one.

        Raises:
          ConventionError: it was computed in another convention than the first.
          KernelInputError: it has another shape, or the step is none.
        """
        check_comparable(self.convention, convention)
        if np.shape(kernel) != self.initial.shape:
            msg = (
                f"kernel has shape {np.shape(kernel)}; expected {self.initial.shape}, that of the "
                "first kernel. Begin anew with ReferenceKernels.start for another probe or mode."
            )
            raise KernelInputError(msg)
        return dataclasses.replace(self, previous=np.array(kernel), previous_step=_step(step))

    def scalars(
        self,
        kernel: Any,
        step: int,
        convention: Convention | None = None,
        *,
        top_k: int | None = None,
    ) -> dict[str, float]:
        """The change of a kernel, by the names under which it is logged.

        Args:
          kernel: the kernel now.
          step: its step; the velocity is NaN where it is not after the previous one.
          convention: its convention.
          top_k: how many eigenvectors span the space whose rotation is measured, by default as
            `principal_angles`.

        Raises:
          ConventionError: the kernel was computed in another convention.
          KernelInputError: the kernels do not match, or the step is none.
        """
        check_comparable(self.convention, convention)
        steps = _step(step) - self.previous_step
        velocity = kernel_velocity(kernel, self.previous, steps) if steps > 0 else math.nan
        return {
            "relative_change": relative_change(kernel, self.initial),
            "kernel_distance": kernel_distance(kernel, self.initial),
            "kernel_velocity": velocity,
            "rotation": float(principal_angles(kernel, self.initial, top_k)[0]),
            "rotation_since_previous": float(principal_angles(kernel, self.previous, top_k)[0]),
        }

    def to_dict(self) -> dict[str, np.ndarray]:
        """Plain numpy arrays, for a checkpoint; the convention as the bytes of its JSON."""
        stated = None if self.convention is None else dataclasses.asdict(self.convention)
        return {
            "initial": self.initial,
            "initial_step": np.asarray(self.initial_step, np.int64),
            "previous": self.previous,
            "previous_step": np.asarray(self.previous_step, np.int64),
            "convention": np.frombuffer(json.dumps(stated).encode(), np.uint8).copy(),
        }

    @classmethod
    def from_dict(cls, arrays: Mapping[str, Any]) -> "ReferenceKernels":
        """What `to_dict` wrote.

        Raises:
          KernelInputError: an entry is missing.
        """
        check_type("arrays", arrays, Mapping, "what ReferenceKernels.to_dict returned")
        missing = [key for key in _KEYS if key not in arrays]
        if missing:
            msg = f"arrays lacks {missing}; expected what ReferenceKernels.to_dict returned."
            raise KernelInputError(msg)
        stated = json.loads(np.asarray(arrays["convention"], np.uint8).tobytes().decode())
        return cls(
            np.asarray(arrays["initial"]),
            int(arrays["initial_step"]),
            np.asarray(arrays["previous"]),
            int(arrays["previous_step"]),
            None if stated is None else Convention(**stated),
        )


def _step(step: Any) -> int:
    return whole_number("step", step, "the step of the kernel, a whole number", least=-math.inf)
