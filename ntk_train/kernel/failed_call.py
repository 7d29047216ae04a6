"""Why f cannot be called with what came: the mistake is found by calling f otherwise.

A network that gets wrong arguments fails somewhere inside, on shapes or on the collections of its
library. Nothing is guessed: a remedy is named where f can be evaluated with it.

>>> import jax.numpy as jnp
>>> call = explained(lambda w, x: jnp.tanh(x @ w), None, {"x1": jnp.ones((3, 2))})
>>> call(jnp.ones((4, 3)), jnp.ones((3, 2)))
Traceback (most recent call last):
ntk_train.errors.KernelInputError: f(params, x1) raised TypeError: dot_general requires \
contracting dimensions to have the same shape, got (2,) and (4,). f(x1, params) can be evaluated: \
params and x1 are swapped.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ntk_train._arguments import described
from ntk_train._types import ApplyFn, PyTree
from ntk_train.errors import KernelInputError, NTKError


def bound(f: ApplyFn, model_state: PyTree) -> ApplyFn:
    """`f(params, x)` with its model state held constant; f itself where there is none."""
    if not jax.tree.leaves(model_state):
        return f
    return lambda params, x: f(params, x, model_state)


def explained(f: ApplyFn, model_state: PyTree, inputs: Mapping[str, PyTree]) -> ApplyFn:
    """`f(params, x)` with its model state, whose errors say which argument is wrong.

    Args:
      f: as in `ntk_train.ntk`.
      model_state: as in `ntk_train.ntk`.
      inputs: the arguments of whose examples x is, by name.

    Returns:
      A function that raises a KernelInputError where the mistake is found, and else the error of f
      with a note on what it was called with.
    """
    call = bound(f, model_state)

    def explained_f(params: PyTree, x: PyTree) -> PyTree:
        try:
            return call(params, x)
        except NTKError:  # says itself what is wrong
            raise
        except Exception as error:
            name = _name_of(x, inputs)
            raised = f"f(params, {name}) raised {type(error).__name__}: {_first_line(error)}"
            for remedy in _remedies(f, model_state, params, x, name, inputs[name], error):
                msg = f"{raised} {remedy}"
                raise KernelInputError(msg) from error
            error.add_note(
                f"This is f(params, {name}) of a tangent kernel, called with "
                f"params = {_shapes(params)} and {name} = {_shapes(x)}"
                + ("." if model_state is None else f", model_state = {_shapes(model_state)}.")
            )
            raise

    return explained_f


def check_not_swapped(f: ApplyFn, params: PyTree, x: PyTree, name: str) -> None:
    """Raises a KernelInputError where f takes the two the other way round, and only so."""
    if not _works(f, params, x) and _works(f, x, params):
        msg = f"f({name}, params) can be evaluated, f(params, {name}) cannot: they are swapped."
        raise KernelInputError(msg)


def _remedies(
    f: ApplyFn,
    model_state: PyTree,
    params: PyTree,
    x: PyTree,
    name: str,
    whole: PyTree,
    error: Exception,
) -> Iterator[str]:
    """What f can be evaluated with, or what it is itself, the surest first."""
    call = bound(f, model_state)
    if _works(call, params, x):  # it is the derivative that does not exist
        return
    yield from _of_f(f, model_state, params, x)
    for what, inner in _inside(params):
        if _works(call, inner, x):
            yield f"f can be evaluated with params{what}: pass that as params."
    if _works(call, {"params": params}, x):
        yield (
            "f takes the variables of a Flax model: pass "
            "lambda params, x: f({'params': params}, x), or ntk_train.linen_fn(model)."
        )
    if _works(call, whole, params):
        yield f"f({name}, params) can be evaluated: params and {name} are swapped."
    if _works(call, params, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], whole)):
        yield (
            f"{name} is one example, without an axis of examples: pass "
            f"jax.tree.map(lambda leaf: leaf[None], {name})."
        )
    for what, inner in _inside(x):
        if _works(call, params, inner):
            yield f"f can be evaluated with {name}{what}: pass that as {name}."
    for axis in _other_axes(whole):
        moved = jnp.moveaxis(whole, axis, 0)
        if _works(call, params, moved[:1]):
            yield (
                f"f can be evaluated with examples on axis {axis} of {name}: pass "
                f"jnp.moveaxis({name}, {axis}, 0)."
            )
    if type(error).__name__ in _OF_FLAX:
        yield _OF_FLAX[type(error).__name__]
    if hasattr(params, "params") and hasattr(params, "apply_fn"):
        yield "params is a TrainState: pass state.params, and its statistics as model_state=."


def _of_f(f: ApplyFn, model_state: PyTree, params: PyTree, x: PyTree) -> Iterator[str]:
    """Of an f that is a model, or that takes other arguments than it gets."""
    if isinstance(f, type):
        yield f"f is the class {f.__name__}: make a module of it, and a function of the module."
    elif _is_linen(f):
        yield f"f is the Flax module {type(f).__name__}: pass ntk_train.linen_fn(model) for it."
    owner = getattr(f, "__self__", None)
    if getattr(f, "__name__", "") == "apply" and _is_linen(owner):
        yield (
            f"f is the method apply of {type(owner).__name__}, which takes variables: pass "
            "ntk_train.linen_fn(model) in its place."
        )
    if callable(getattr(f, "eval", None)) and callable(getattr(f, "train", None)):
        yield (
            f"f is the NNX module {type(f).__name__}: pass f = ntk_train.nnx_fn(model), and what "
            "f.split(model) returns as params and model_state."
        )
    given = (params, x) if not jax.tree.leaves(model_state) else (params, x, model_state)
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):  # of some functions in C there is none
        return
    try:
        signature.bind(*given)
    except TypeError:
        takes = "f(params, x)" if len(given) == 2 else "f(params, x, model_state)"
        yield (
            f"f takes {signature}, and is called as {takes}. Close it over what it takes beside "
            "these; model_state= is a third argument that is held constant."
        )


def _is_linen(model: Any) -> bool:
    return callable(getattr(model, "apply", None)) and callable(getattr(model, "init", None))


def _inside(tree: Any) -> Iterator[tuple[str, Any]]:
    """Parts of an argument, with how they are written: of a TrainState, a tuple or a dict."""
    if hasattr(tree, "params"):
        yield ".params", tree.params
    if isinstance(tree, Mapping):
        yield from ((f"[{key!r}]", value) for key, value in tree.items())
    elif isinstance(tree, (list, tuple)):
        yield from ((f"[{i}]", value) for i, value in enumerate(tree))


def _other_axes(whole: Any) -> range:
    return range(1, whole.ndim if isinstance(whole, jax.Array) else 0)


_OF_FLAX = {
    "ScopeCollectionNotFound": (
        "f reads another collection than params (running statistics, for example): take an "
        "f(params, x, model_state), as ntk_train.linen_fn(model, ...) makes one, and pass "
        "model_state={'batch_stats': variables['batch_stats']}."
    ),
    "InvalidRngError": (
        "f draws random numbers, as dropout does in train mode: evaluate it in eval mode "
        "(train=False or deterministic=True, as the model has it)."
    ),
    "ModifyScopeVariableError": (
        "f updates its statistics, as BatchNorm does in train mode: evaluate it in eval mode, or "
        "pass ntk_train.linen_fn(model, ..., mutable=['batch_stats']) and batched=False."
    ),
}
"""By the name of the error: the core does not import Flax."""


def _works(call: ApplyFn, *arguments: PyTree) -> bool:
    """Whether a call of f can be evaluated, and returns arrays."""
    try:
        leaves = jax.tree.leaves(jax.eval_shape(lambda: call(*arguments)))
    except Exception:  # whatever f raises: it is another call that fails
        return False
    return bool(leaves)


def _name_of(x: PyTree, inputs: Mapping[str, PyTree]) -> str:
    """The argument of which x is some examples."""

    def one(tree: PyTree) -> tuple[Any, list[tuple[int, ...]]]:
        leaves, treedef = jax.tree.flatten(tree)
        return treedef, [jnp.shape(leaf)[1:] for leaf in leaves]

    return next((name for name, whole in inputs.items() if one(whole) == one(x)), min(inputs))


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or "no text").splitlines()[0]
    text = text if len(text) <= 300 else f"{text[:300]}..."
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _shapes(tree: PyTree) -> str:
    """The leaves of a tree by path, the first few."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    pairs = zip(names[:8], leaves, strict=False)
    shown = [f"{name}: {_shape(leaf)}".removeprefix(": ") for name, (_, leaf) in pairs]
    more = [f"and {len(leaves) - 8} more"] if len(leaves) > 8 else []
    return "{" + ", ".join(shown + more) + "}"


def _shape(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else described(leaf)
