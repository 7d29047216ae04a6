"""From a config to the objects of a run, before anything is computed or written."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import optax
from ml_collections import ConfigDict

from ntk_train.data import Dataset, Probe, largest_probe, load_dataset, make_probe
from ntk_train.kernel.options import OPTIONS
from ntk_train.models import create_model
from ntk_train.monitor import HookSet, Measurement, hooks_for, linen_fn, split_by_class
from ntk_train.spectrum import CrossEntropy, Training
from ntk_train.train.config import blame
from ntk_train.train.kept import Kept
from ntk_train.train.optimizer import make_optimizer, make_schedule
from ntk_train.train.state import TrainState, create_state


@dataclasses.dataclass(frozen=True)
class Setup:
    """The objects of a run that do not change.

    Attributes:
      dataset: what it trains on.
      model: with as many outputs as the data set has classes.
      schedule: the learning rate over the updates.
      optimizer: with that learning rate.
      probe: the inputs of the kernel, None if `config.ntk.enabled` is False.
      test_probe: as many test images, or as many as keep it balanced; None where `probe` is.
    """

    dataset: Dataset
    model: nn.Module
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    probe: Probe | None
    test_probe: Probe | None = None

    @property
    def probes(self) -> dict[str, Probe]:
        """The probes that there are, by the part of the data set that they come from."""
        probes = {"train": self.probe, "test": self.test_probe}
        return {name: probe for name, probe in probes.items() if probe is not None}

    def initial_state(self, seed: int) -> TrainState:
        """The state before the first step."""
        return create_state(self.model, self.optimizer, self.dataset.image_shape, seed)


def make_setup(config: ConfigDict) -> Setup:
    """Loads the data set and makes the model, the optimizer and the probe.

    Raises:
      ConfigError: a value of the config is at fault; the text names its section.
      ModuleNotFoundError: the data set needs a package that is not installed.
    """
    with blame("dataset"):
        dataset = load_dataset(config.dataset.name, **config.dataset.kwargs)
    with blame("model"):
        model = create_model(
            config.model.name, num_outputs=dataset.num_classes, **config.model.kwargs
        )
    with blame("optimizer"):
        schedule = make_schedule(config.optimizer, config.num_train_steps)
        optimizer = make_optimizer(config.optimizer, schedule)
    with blame("model"):  # an activation, say, is looked up when the model is first called
        create = functools.partial(create_state, model, optimizer, dataset.image_shape)
        jax.eval_shape(create, config.seed)
    probe, test_probe = None, None
    if config.ntk.enabled:
        size, seed = config.ntk.probe_size, config.ntk.probe_seed
        with blame("ntk.probe_size"):
            probe = make_probe(dataset.train, size=size, seed=seed)
            size = min(size, largest_probe(dataset.test))
            test_probe = make_probe(dataset.test, size=size, seed=seed)
    return Setup(dataset, model, schedule, optimizer, probe, test_probe)


def make_hook(
    config: ConfigDict,
    setup: Setup,
    writer: Any,
    kept: Kept | None = None,
) -> HookSet | None:
    """Makes the hooks that `config.ntk` describes, one for each probe, or None.

    Args:
      config: the whole config.
      setup: its objects.
      writer: of the run; None to write nothing.
      kept: of the run that is continued.

    Raises:
      ConfigError: a value of `config.ntk` is at fault.
    """
    if not setup.probes:
        return None
    kept = kept or Kept()
    with blame("ntk"):
        probes = _probes(setup, config.ntk.probes)
        hooks = hooks_for(
            linen_fn(setup.model, train=False),
            {name: setup.dataset.inputs(images) for name, (images, _) in probes.items()},
            # The labels of one class are all the same, and nothing is aligned with them.
            labels={name: labels for name, (_, labels) in probes.items() if labels is not None},
            references=kept.references,
            training=_training(config),
            top_k=config.ntk.top_k or None,
            stop_when=_stop_when(config.ntk.stop_above_condition_number),
            writer=writer,
            every_steps=config.ntk.every_steps,
            last_step=config.num_train_steps,
            max_overhead=config.ntk.max_overhead or None,
            check=config.ntk.check,
            write_hparams=False,  # the loop writes them with its own; writers take them once
            **{name: config.ntk[name] for name in OPTIONS if name in config.ntk},
        )
    for name in hooks.keys() & kept.histories.keys():
        hooks[name].history.go_on_from(kept.histories[name])
    return hooks


def probe_checksums(setup: Setup, names: Iterable[str]) -> dict[str, str]:
    """Which images the probes of hooks are, by the hparam of each.

    Args:
      setup: of the run.
      names: of the hooks, in order. That of a class has the checksum of the probe it is part of.
    """
    probes = {name: setup.probes.get(name, setup.probes["train"]) for name in names}
    groups = ["ntk", *(f"ntk_{name}" for name in list(probes)[1:])]
    return {
        f"{group}/probe_checksum": probe.checksum
        for group, probe in zip(groups, probes.values(), strict=True)
    }


def _probes(setup: Setup, names: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Images and labels of the probes by name; a probe of one class has no labels.

    Raises:
      ValueError: there is no such probe, or none is named.
    """
    if not names or not set(names) <= {*setup.probes, "per_class"}:
        msg = (
            f"probes={tuple(names)}; expected one or more of {[*setup.probes, 'per_class']}. To "
            "log no kernel set ntk.enabled=False."
        )
        raise ValueError(msg)
    probes: dict[str, tuple[Any, Any]] = {}
    for name in names:
        if name == "per_class":
            train = setup.probes["train"]
            parts = split_by_class(train.images, train.labels)
            probes |= {part: (images, None) for part, images in parts.items()}
        else:
            probes[name] = setup.probes[name].images, setup.probes[name].labels
    return probes


def _training(config: ConfigDict) -> Training:
    """The loss of the step, and SGD's momentum and batch; Adam's critical rate is another one."""
    optimizer = config.optimizer
    if optimizer.name != "sgd":
        return Training(CrossEntropy())
    return Training(
        CrossEntropy(),
        momentum=optimizer.momentum,
        nesterov=optimizer.nesterov,
        batch_size=config.batch_size,
    )


def _stop_when(bound: float) -> Callable[[Measurement], str] | None:
    if bound < 0:
        msg = f"stop_above_condition_number={bound}; expected a positive number, or 0 for none."
        raise ValueError(msg)

    def too_large(found: Measurement) -> str:
        number = found.spectrum.condition_number
        return f"condition number {number:.3g} is above {bound:.3g}" if number > bound else ""

    return too_large if bound else None
