"""What can be chosen about a kernel, in one record that all which compute or check one share.

A new option is a field here, checked in `__post_init__`, and the one place that acts on it. The
public functions make the record of their keyword arguments: `ntk` of all of them, the others of
those that they offer.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from ntk_train._arguments import (
    check_function,
    described,
    numeric_array,
    real_number,
    yes_or_no,
)
from ntk_train._types import ParamFilter
from ntk_train.errors import KernelInputError
from ntk_train.kernel.precision import check_precision
from ntk_train.kernel.readout import is_readout

MODES = ("full", "trace", "diagonal", "sum")
IMPLEMENTATIONS = ("structured", "jacobian_contraction", "ntk_vector_products")


@dataclasses.dataclass(frozen=True, eq=False)
class KernelOptions:
    """The options of `ntk_train.ntk`, which documents them.

    They are checked when the record is made, as far as they can be without params and inputs, and
    kept in one plain form. `dataclasses.replace` makes another record, checked likewise.

    Attributes:
      outputs: one of `MODES`; the chosen logits, an array of integers or a pair of them; or what is
        made of the outputs: `Projections`, a matrix of directions, or a function.
      implementation: one of `IMPLEMENTATIONS`, or "auto".
      batched: whether the outputs of an example depend on that example alone.
      precision: of the matrix products, a name as `kernel.precision` lists them, or None.
      param_filter: from a path to whether the parameter is differentiated, or None for all.
      per_layer: False, True, or from a path to the name of the part that it belongs to.
      memory_budget: bytes, or None for what the device has.
      strict: whether a use of a parameter that no rule factors is an error.

    Raises:
      KernelInputError: a field is none of these; the text names it.
    """

    outputs: Any = "full"
    implementation: str = "auto"
    batched: bool = True
    precision: str | None = "float32"
    param_filter: ParamFilter | None = None
    per_layer: bool | Callable[[str], str] = False
    memory_budget: float | int | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        """Checks each field."""
        self._keep("outputs", _checked_outputs(self.outputs))
        if self.implementation not in ("auto", *IMPLEMENTATIONS):
            known = ["auto", *IMPLEMENTATIONS]
            msg = f"implementation={described(self.implementation)} is none of {known}."
            raise KernelInputError(msg)
        expected = "True for independent examples, or False"
        self._keep("batched", yes_or_no("batched", self.batched, expected))
        check_precision(self.precision)
        if self.param_filter is not None:
            expected = "a function from a path to True or False, as lambda path: 'kernel' in path"
            check_function("param_filter", self.param_filter, expected)
        if not callable(self.per_layer):
            expected = "True, False, or a function from a path to the name of a group"
            self._keep("per_layer", yes_or_no("per_layer", self.per_layer, expected))
        if self.memory_budget is not None:
            expected = "a number of bytes, as 4e9, or None"
            budget = real_number(
                "memory_budget", self.memory_budget, expected, above=0, or_infinite=True
            )
            self._keep("memory_budget", budget)
        self._keep("strict", yes_or_no("strict", self.strict))

    def _keep(self, name: str, value: Any) -> None:
        """Sets a field to its plain form."""
        object.__setattr__(self, name, value)


OPTIONS = tuple(field.name for field in dataclasses.fields(KernelOptions))
"""Their names, by which a config has them too."""


def _checked_outputs(outputs: Any) -> Any:
    """The mode, or the chosen logits as arrays, which may be traced."""
    if isinstance(outputs, str):
        if outputs not in MODES:
            msg = f"outputs={outputs!r} is none of {list(MODES)} and no integer array of logits."
            raise KernelInputError(msg)
        return outputs
    if is_readout(outputs):
        return outputs
    if isinstance(outputs, tuple):
        return tuple(_checked_choice(outputs, choice) for choice in outputs)
    return _checked_choice(outputs, outputs)


def _checked_choice(outputs: Any, choice: Any) -> Any:
    expected = (
        "a mode or integers, one logit for each example; or Projections(k), a matrix [O, k] of "
        "floating point, or a function of the outputs"
    )
    if isinstance(choice, (int, list)):
        return numeric_array("outputs", choice, expected)
    if not hasattr(choice, "dtype"):
        msg = (
            f"outputs={described(outputs)}; expected {expected} (a pair of arrays if x2 is given)."
        )
        raise KernelInputError(msg)
    return choice
