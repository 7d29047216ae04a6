"""Several probes of one network, measured at the same steps: training and test images, each class.

    hook = hooks_for(f, {"train": x, "test": x_test}, labels={"train": y, "test": y_test},
                     every_steps=100, writer=writer)
    hook(step, params=params)      # ntk/lambda_max and ntk_test/lambda_max

Each probe has a pipeline of its own, with its convention, references and thread; they share a
schedule and an account of time. The first probe keeps the bare prefix, so that its tags are those
of a single hook; TensorBoard shows the others as groups beside it.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ntk_train._types import ApplyFn, PyTree
from ntk_train.errors import KernelInputError
from ntk_train.monitor.convention import Convention
from ntk_train.monitor.hook import Hook, NTKHook
from ntk_train.monitor.measure import Measurement
from ntk_train.monitor.tags import LAYERS, prefix_of
from ntk_train.spectrum import ReferenceKernels

_log = logging.getLogger(__name__)


class HookSet(Hook, Mapping[str, NTKHook]):
    """Hooks by name that run at the same steps, those of the first, and are called as one.

    Attributes:
      first: the first of them.

    Args:
      hooks: by name, each with a prefix of its own. The schedule and `max_overhead` of the first
        are those of all: max_overhead bounds the time of all of them together.

    Raises:
      KernelInputError: there is none.
    """

    def __init__(self, hooks: Mapping[str, NTKHook]) -> None:
        if not hooks:
            msg = "hooks is empty; expected at least one hook by its name."
            raise KernelInputError(msg)
        self._hooks = dict(hooks)
        self.first = next(iter(self._hooks.values()))
        pipelines = {name: hook.pipeline for name, hook in self._hooks.items()}
        super().__init__(pipelines, self.first.schedule, self.first.overhead)

    def __getitem__(self, name: str) -> NTKHook:
        """The hook of that name."""
        return self._hooks[name]

    def __iter__(self) -> Iterator[str]:
        """The names, in order."""
        return iter(self._hooks)

    def __len__(self) -> int:
        """The number of hooks."""
        return len(self._hooks)

    def prepare(
        self, *, params: PyTree, model_state: Mapping[str, PyTree] | None = None
    ) -> dict[str, Convention]:
        """Traces all kernels and starts to compile them; raises what a call would survive."""
        return self._prepare(params, model_state)

    @property
    def latest(self) -> dict[str, Measurement]:
        """The last measurement of each hook that has one; waits for those under way."""
        found = {name: hook.latest for name, hook in self._hooks.items()}
        return {name: latest for name, latest in found.items() if latest is not None}

    @property
    def references(self) -> dict[str, ReferenceKernels]:
        """The references of each hook that has some; waits for those under way."""
        found = {name: hook.references for name, hook in self._hooks.items()}
        return {name: kept for name, kept in found.items() if kept is not None}


def hooks_for(
    f: ApplyFn,
    probes: Mapping[str, PyTree],
    *,
    labels: Mapping[str, Any] | None = None,
    references: Mapping[str, ReferenceKernels] | None = None,
    prefix: str = "ntk",
    **options: Any,
) -> HookSet:
    """A hook for each probe; the first logs as `ntk/...`, another named "test" as `ntk_test/...`.

    Args:
      f: as of `NTKHook`.
      probes: inputs by name.
      labels: of those probes that have some, by name.
      references: of the run that this one continues, `HookSet.references`.
      prefix: of the first; before an underscore and the name, that of another.
      **options: of `NTKHook`, for all; `write_hparams` for the first alone.

    Raises:
      KernelInputError: there is no probe, or labels for one that there is not, or one has the name
        of another group of tags; or as `NTKHook`.
    """
    given = {"probes": probes, "labels": labels, "references": references}
    for name, value in given.items():
        if value is not None and not isinstance(value, Mapping):
            msg = f"{name} is a {type(value).__name__}; expected a dict by the names of the probes."
            raise KernelInputError(msg)
    labels, references = labels or {}, references or {}
    _check_names(list(probes))
    dropped = sorted(references.keys() - probes.keys())
    if dropped:
        _log.warning(
            "There are references of %s, which is no probe here: those curves end.", dropped
        )
    unknown = sorted(labels.keys() - probes.keys())
    if unknown:
        msg = f"labels has {unknown}; probes has {list(probes)}. Take the names of the probes."
        raise KernelInputError(msg)
    hooks: dict[str, NTKHook] = {}
    for name, probe in probes.items():
        own = (
            {"prefix": prefix_of(prefix, name), "write_hparams": False}
            if hooks
            else {"prefix": prefix}
        )
        hooks[name] = NTKHook(
            f,
            probe,
            labels=labels.get(name),
            references=references.get(name),
            **{**options, **own},
        )
    return HookSet(hooks)


def _check_names(names: list[str]) -> None:
    """Refuses names that make one group of tags of two.

    Raises:
      KernelInputError: a probe is called "layers", or as another one's layers.
    """
    taken = {LAYERS} | {prefix_of(name, LAYERS) for name in names[1:]}
    clash = sorted(taken.intersection(names))
    if clash:
        msg = f"probes has {clash}, the group of the numbers by layer. Take another name."
        raise KernelInputError(msg)


def split_by_class(probe: PyTree, labels: Any, name: str = "class_{}") -> dict[str, PyTree]:
    """The examples of each class of a probe, as probes by name.

    Args:
      probe: inputs with the examples on axis 0.
      labels: classes [N], integers.
      name: of a probe, with {} for its class.

    Raises:
      KernelInputError: there is not one class for each example.
    """
    labels = np.asarray(labels)
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(probe)}
    if labels.ndim != 1 or sizes != {labels.shape} or not np.issubdtype(labels.dtype, np.integer):
        msg = (
            f"labels is {labels.dtype}{list(labels.shape)}, the probe has leaves of lengths "
            f"{sorted(sizes)}; expected one class, an integer, for each example."
        )
        raise KernelInputError(msg)
    return {
        name.format(label): jax.tree.map(lambda leaf, of=label: leaf[labels == of], probe)
        for label in np.unique(labels)
    }
