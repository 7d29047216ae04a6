"""What a hook refuses when it is made: arguments that could not work at any step."""

import numbers
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._types import PyTree
from ntk_train.errors import DtypeError, KernelInputError
from ntk_train.kernel.problem import mode_and_choices, on_one_device
from ntk_train.kernel.readout import Projections, is_readout
from ntk_train.monitor.switches import usual_switches
from ntk_train.spectrum import ReferenceKernels, Training
from ntk_train.spectrum.alignment import are_classes

_Kind: TypeAlias = tuple[Callable[[Any], bool], str]


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_switch(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _is_module(f: Any) -> bool:
    """Whether it is a model of Linen or NNX, by their methods: this does not import Flax."""
    return (hasattr(f, "apply") and hasattr(f, "bind")) or hasattr(f, "iter_modules")


_SWITCH: _Kind = (_is_switch, "True or False")
_KINDS: Mapping[str, _Kind] = {
    "f": (
        lambda f: callable(f) and not _is_module(f),
        "a function f(params, x), which linen_fn(model) and nnx_fn(model) make of a Flax model",
    ),
    "references": (
        lambda kept: kept is None or isinstance(kept, ReferenceKernels),
        "ReferenceKernels, as hook.references or ReferenceKernels.from_dict(...), or None",
    ),
    "training": (
        lambda how: how is None or isinstance(how, Training),
        "Training(CrossEntropy()) for example, or None",
    ),
    "stop_when": (
        lambda stop: stop is None or callable(stop),
        "a function of a Measurement that says whether to stop, or None",
    ),
    "max_overhead": (
        lambda part: part is None or (_is_number(part) and part > 0),
        "a part of the run's time, as 0.01, or None",
    ),
    "top_k": (
        lambda k: (
            k is None or (isinstance(k, (int, np.integer)) and _is_number(k) and bool(k >= 1))
        ),
        "how many eigenvectors are the top space, 1 or more, or None",
    ),
    "prefix": (lambda name: isinstance(name, str) and bool(name), "a text, as 'ntk'"),
    "pictures": _SWITCH,
    "write_hparams": _SWITCH,
    "check": _SWITCH,
    "max_failures": (
        lambda most: isinstance(most, (int, np.integer)) and bool(most >= 1),
        "an integer of 1 or more, or the hook would never run",
    ),
}


def check_kinds(**given: Any) -> None:
    """Refuses arguments of `NTKHook` of another kind than it takes.

    Raises:
      KernelInputError: the text names the argument, and says what is expected.
    """
    for name, value in given.items():
        fits, expected = _KINDS[name]
        if not fits(value):
            msg = f"{name}={value!r}; expected {expected}."
            raise KernelInputError(msg)


def check_outputs(outputs: Any, probe: PyTree | None) -> None:
    """Refuses outputs of options that could not work at any step.

    Args:
      outputs: as `KernelOptions` has them.
      probe: with the examples on axis 0, or None where they need not be there.

    Raises:
      KernelInputError, DtypeError: the text names the argument.
    """
    if isinstance(outputs, str) and outputs == "diagonal":
        msg = "outputs='diagonal' is no square kernel and has no spectrum; use 'full' or 'trace'."
        raise KernelInputError(msg)
    if is_readout(outputs) and not isinstance(outputs, Projections):
        msg = (
            "outputs is a matrix or function of the outputs; the hook takes them as f returns "
            "them. Give it the f that returns what you want, as lambda params, x: g(f(params, x))."
        )
        raise KernelInputError(msg)
    mode, choice, _ = mode_and_choices(outputs, None)
    if mode == "chosen":
        _check_choice(choice, probe)


def _check_choice(choice: Any, probe: PyTree | None) -> None:
    if not jnp.issubdtype(choice.dtype, jnp.integer):
        msg = f"outputs is {choice.dtype}: chosen logits must be integers."
        raise DtypeError(msg)
    if np.size(choice) and np.min(choice) < 0:
        msg = f"outputs chooses the logit {np.min(choice)}; they are numbered from 0."
        raise KernelInputError(msg)
    n = None if probe is None else len(jax.tree.leaves(probe)[0])
    if choice.ndim and n is not None and choice.shape != (n,):
        msg = f"outputs has shape {choice.shape}; expected ({n},), a logit for each probe input."
        raise KernelInputError(msg)


def checked_labels(labels: Any, probe: PyTree | None) -> np.ndarray | None:
    """Labels as an array of our own, which the caller may not change; classes as [N].

    Args:
      labels: as of `NTKHook`.
      probe: with the examples on axis 0, or None where they need not be there: how many labels fit
        is known when f is traced then.

    Raises:
      KernelInputError: they are no classes or targets, or not one for each probe input.
    """
    if labels is None:
        return None
    labels = np.array(labels)
    numeric = labels.dtype == bool or jnp.issubdtype(labels.dtype, np.number)
    if labels.ndim not in (1, 2) or not numeric or np.iscomplexobj(labels):
        msg = (
            f"labels is {labels.dtype}{list(labels.shape)}; expected a class for each probe input, "
            "integers [N] or [N, 1], or real targets [N] or [N, O]."
        )
        raise KernelInputError(msg)
    n = None if probe is None else len(jax.tree.leaves(probe)[0])
    if n is not None and len(labels) != n:
        msg = f"labels has shape {labels.shape}; expected one for each of the {n} probe inputs."
        raise KernelInputError(msg)
    if are_classes(labels):
        labels = labels.reshape(len(labels))
        if np.any(labels < 0):
            msg = f"labels has the class {labels.min()}; expected classes from 0."
            raise KernelInputError(msg)
    if not np.all(np.isfinite(labels)):
        msg = "labels holds NaN or infinite targets; expected finite numbers."
        raise KernelInputError(msg)
    return labels


@usual_switches()
def checked_probe(probe: PyTree, batched: bool) -> PyTree:
    """The probe as arrays on one device, finite, and with examples on axis 0 if `batched`.

    Raises:
      KernelInputError: it is not.
    """
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(probe)]
    if not shapes or all(0 in shape[:1] for shape in shapes):
        msg = f"probe has leaves of shapes {shapes}; expected at least one example on axis 0."
        raise KernelInputError(msg)
    if batched and (() in shapes or len({shape[0] for shape in shapes}) > 1):
        msg = (
            f"probe has leaves of shapes {shapes}; expected as many examples in each, on axis 0. "
            "Close f over what is no example, or say batched=False if f takes the probe as a whole."
        )
        raise KernelInputError(msg)
    probe = jax.tree.map(_array, on_one_device("probe", probe))
    for leaf in jax.tree.leaves(probe):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not bool(jnp.all(jnp.isfinite(leaf))):
            msg = "probe holds NaN or infinite numbers; every kernel would be NaN."
            raise KernelInputError(msg)
    return probe


def _array(leaf: Any) -> jax.Array:
    """A copy of what is on the host, which the caller may write to; on a CPU JAX may share it."""
    try:
        return leaf if isinstance(leaf, jax.Array) else jnp.array(leaf)
    except (TypeError, ValueError) as error:
        msg = f"probe has a leaf of type {type(leaf).__name__}; expected arrays: {error}"
        raise KernelInputError(msg) from error
