"""From a model to the function `f(params, x, model_state=None)` that the hook takes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ntk_train._arguments import described
from ntk_train._types import PyTree
from ntk_train.errors import KernelInputError


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


class NnxFn:
    """An NNX model as a function of its parameters; made by `nnx_fn`."""

    def __init__(self, model: Any) -> None:
        from flax import nnx

        alone = nnx.clone(model)  # the caller's stays in its mode
        alone.eval()
        parts = nnx.split(alone, nnx.Param, nnx.RngState, ...)
        self._graph, _, self._rngs, self._state = parts
        self._name = type(model).__name__

    def __call__(self, params: PyTree, x: PyTree, model_state: PyTree | None = None) -> PyTree:
        """Applies the model in eval mode; what it changes of its state is dropped."""
        from flax import nnx

        state = self._state if model_state is None else model_state
        return nnx.merge(self._graph, params, self._rngs, state)(x)

    def __str__(self) -> str:
        """Names the model's class and its mode, for the convention."""
        return f"{self._name}(eval mode)"

    def split(self, model: Any) -> dict[str, PyTree]:
        """The arguments of the hook's call: `hook(step, **f.split(model))`.

        Returns:
          "params", the state of all `nnx.Param`, and "model_state", that of all else but random
          number generators: the running statistics.
        """
        from flax import nnx

        _, params, _, state = nnx.split(model, nnx.Param, nnx.RngState, ...)
        return {"params": params, "model_state": state}


def nnx_fn(model: Any) -> NnxFn:
    """Makes a function of the parameters alone from a Flax NNX model.

        f = nnx_fn(model)
        hook = NTKHook(f, probe, every_steps=100, writer=writer)
        ...
        hook(step, **f.split(model))

    Args:
      model: the module; a copy of it is switched to eval mode (BatchNorm takes its running
        statistics, dropout is off), and the model itself is left as it is.

    Returns:
      `f(params, x, model_state=None)`, with the method `split` that takes both out of the model
      as it is at a step. Without a model_state it is that of the model given here.
    """
    if isinstance(model, type) or not callable(getattr(model, "eval", None)):
        hint = "; of a Linen module ntk_train.linen_fn makes one" if hasattr(model, "apply") else ""
        msg = f"model is {described(model)}; expected a Flax NNX module{hint}."
        raise KernelInputError(msg)
    return NnxFn(model)


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
    if isinstance(model, type) or not callable(getattr(model, "apply", None)):
        hint = "; of an NNX module ntk_train.nnx_fn makes one" if hasattr(model, "eval") else ""
        msg = f"model is {described(model)}; expected a Flax Linen module{hint}."
        raise KernelInputError(msg)
    return LinenFn(model, tuple(kwargs.items()))
