"""From a model to the function `f(params, x, model_state=None)` that the hook takes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ntk_train._types import PyTree


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: a keyword may be a list
class LinenFn:
    """A Linen model as a function of its parameters; made by `linen_fn`."""

    model: Any
    kwargs: tuple[tuple[str, Any], ...]

    def __call__(
        self, params: PyTree, x: PyTree, model_state: Mapping[str, PyTree] | None = None
    ) -> PyTree:
        """Applies the model; updates of mutable collections are dropped."""
        kwargs = dict(self.kwargs)
        outputs = self.model.apply({**(model_state or {}), "params": params}, x, **kwargs)
        return outputs[0] if kwargs.get("mutable") else outputs

    def __str__(self) -> str:
        """Names the model's class and the arguments of its call, for the convention."""
        kwargs = ", ".join(f"{key}={value!r}" for key, value in self.kwargs)
        return f"{type(self.model).__name__}({kwargs})"


def linen_fn(model: Any, **kwargs: Any) -> LinenFn:
    """Makes a function of the parameters alone from a Flax Linen model.

    Args:
      model: the module; anything with Linen's `apply(variables, x, **kwargs)`.
      **kwargs: of the model's call, `train=False` for example. For BatchNorm in train mode pass the
        model's switch for it and `mutable=["batch_stats"]`, and give the hook `batched=False`.

    Returns:
      `f(params, x, model_state=None)`, where model_state holds the other collections
      (`{"batch_stats": ...}`), which are read and never differentiated.
    """
    return LinenFn(model, tuple(kwargs.items()))
