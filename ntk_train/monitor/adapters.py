"""From a model to the function `f(params, x, model_state=None)` that the hook takes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ntk_train._arguments import described
from ntk_train._types import PyTree
from ntk_train.errors import KernelInputError


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: a keyword may be a list
class LinenFn:
    """A Linen model as a function of its parameters; made by `linen_fn`."""

    model: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]

    def __call__(
        self, params: PyTree, x: PyTree, model_state: Mapping[str, PyTree] | None = None
    ) -> PyTree:
        """Applies the model; updates of mutable collections are dropped."""
        kwargs = dict(self.kwargs)
        variables = {**(model_state or {}), "params": params}
        outputs = self.model.apply(variables, x, *self.args, **kwargs)
        return outputs if kwargs.get("mutable", False) is False else outputs[0]

    def __str__(self) -> str:
        """Names the model's class and the arguments of its call, for the convention."""
        return f"{type(self.model).__name__}({_text_of_call(self.args, dict(self.kwargs))})"


class NnxFn:
    """An NNX model as a function of its parameters; made by `nnx_fn`."""

    def __init__(
        self,
        model: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        call: Callable[..., PyTree] | None,
    ) -> None:
        from flax import nnx

        if not isinstance(model, nnx.Module):
            hint = "; of a Linen module ntk_train.linen_fn makes one"
            hint = hint if hasattr(model, "apply") else ", as MLP(nnx.Rngs(0))"
            msg = f"model is {described(model)}; expected a Flax NNX module{hint}."
            raise KernelInputError(msg)
        if call is not None and not callable(call):
            msg = f"call={call!r}; expected a function call(model, x, ...), as a lambda."
            raise KernelInputError(msg)
        alone = nnx.clone(model)  # the caller's stays in its mode
        alone.eval()
        nnx.pop(alone, nnx.Intermediate)  # what an earlier call has left there
        parts = nnx.split(alone, nnx.Param, nnx.RngState, ...)
        self._graph, _, self._rngs, self._state = parts
        self._call = call
        self._arguments = _copied((args, dict(kwargs)))  # as they are now: rngs move on
        self._name = type(model).__name__

    def __call__(self, params: PyTree, x: PyTree, model_state: PyTree | None = None) -> PyTree:
        """Applies the model in eval mode; what it changes of its state is dropped."""
        from flax import nnx

        state = self._state if model_state is None else self._known(model_state)
        model = nnx.merge(self._graph, params, self._rngs, state, copy=True)
        args, kwargs = _copied(self._arguments)
        if self._call is not None:
            return self._call(model, x, *args, **kwargs)
        return model(x, *args, **kwargs)

    def __str__(self) -> str:
        """Names the model's class, its mode and the arguments of its call, for the convention."""
        given = _text_of_call(*self._arguments)
        if self._call is not None:
            given = ", ".join(part for part in (f"call={_text(self._call)}", given) if part)
        return f"{self._name}({given}{', ' if given else ''}eval mode)"

    def split(self, model: Any) -> dict[str, PyTree]:
        """The arguments of the hook's call: `hook(step, **f.split(model))`.

        Returns:
          "params", the state of all `nnx.Param`, and "model_state", that of all else but random
          number generators: the running statistics. Variables that the model did not have when f
          was made, as `sow` adds them with each call, are left out.
        """
        from flax import nnx

        _, params, _, state = nnx.split(model, nnx.Param, nnx.RngState, ...)
        return {"params": params, "model_state": self._known(state)}

    def _known(self, state: PyTree) -> PyTree:
        """The part of a state that the model had when f was made."""
        from flax import nnx

        now, known = dict(nnx.to_flat_state(state)), nnx.to_flat_state(self._state)
        kept = [(path, _same_kind(now.get(path), variable)) for path, variable in known]
        return nnx.from_flat_state(kept)


def nnx_fn(
    model: Any, *args: Any, call: Callable[..., PyTree] | None = None, **kwargs: Any
) -> NnxFn:
    """Makes a function of the parameters alone from a Flax NNX model.

        f = nnx_fn(model)
        hook = NTKHook(f, probe, every_steps=100, writer=writer)
        ...
        hook(step, **f.split(model))

    What else the model's call takes is given here, once for all steps:

        nnx_fn(model, rngs)                                         # model(x, rngs)
        nnx_fn(model, call=lambda model, x: model.encode(x["ids"], x["mask"]))

    Args:
      model: the module; a copy of it is switched to eval mode (BatchNorm takes its running
        statistics, dropout is off), and the model itself is left as it is. What a call changes of
        the module's variables is dropped.
      *args: further arguments of the model's call, after x. An `nnx.Rngs` or a module among them is
        copied now, and each call of f begins with that copy, so that f is a function.
      call: `call(model, x, *args, **kwargs)`, in place of `model(x, *args, **kwargs)`: for another
        method, or a model that takes the parts of x one by one.
      **kwargs: keyword arguments of the model's call.

    Returns:
      `f(params, x, model_state=None)`, with the method `split` that takes both out of the model
      as it is at a step. Without a model_state it is that of the model given here.

    Raises:
      KernelInputError: model is no NNX module, or call no function.
    """
    return NnxFn(model, args, kwargs, call)


def linen_fn(model: Any, *args: Any, **kwargs: Any) -> LinenFn:
    """Makes a function of the parameters alone from a Flax Linen model.

        linen_fn(model, train=False)                               # model(x, train=False)
        linen_fn(model, method="encode")                           # model.encode(x)
        linen_fn(model, method=lambda module, x: module(x["ids"], x["mask"]))

    Args:
      model: the module; anything with Linen's `apply(variables, x, *args, **kwargs)`.
      *args: further arguments of the model's call, after x.
      **kwargs: of the model's call, `train=False` for example; and those of `apply` itself: method,
        the name of another method or a function of module and x, rngs, `{"dropout": key}` for
        models that draw in any mode, and mutable. For BatchNorm in train mode pass the model's
        switch for it and `mutable=["batch_stats"]`, and give the hook `batched=False`.

    Returns:
      `f(params, x, model_state=None)`, where model_state holds the other collections
      (`{"batch_stats": ...}`), which are read and never differentiated.

    Raises:
      KernelInputError: model has no method `apply`, or is a class.
    """
    if isinstance(model, type) or not callable(getattr(model, "apply", None)):
        hint = "; of an NNX module ntk_train.nnx_fn makes one" if hasattr(model, "eval") else ""
        msg = f"model is {described(model)}; expected a Flax Linen module{hint}."
        raise KernelInputError(msg)
    return LinenFn(model, args, tuple(kwargs.items()))


def _copied(tree: PyTree) -> PyTree:
    """A tree with NNX objects copied, as a call may change them and a trace must not leave them."""
    from flax import nnx

    def copy(leaf: Any) -> Any:
        return nnx.clone(leaf) if isinstance(leaf, nnx.Pytree) else leaf

    return jax.tree.map(copy, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Pytree))


def _same_kind(now: Any, before: Any) -> Any:
    """A variable as it is now, if it still holds as many arrays as when the function was made."""
    same = now is not None and len(jax.tree.leaves(now)) == len(jax.tree.leaves(before))
    return now if same else before


def _text_of_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    named = [f"{key}={_text(value)}" for key, value in kwargs.items()]
    return ", ".join([*map(_text, args), *named])


def _text(value: Any) -> str:
    """A value as text that is the same in each run: no addresses, and no entries of arrays."""
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"{value.dtype}{list(value.shape)}"
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_text(entry)}" for key, entry in value.items()) + "}"
    return repr(value)
