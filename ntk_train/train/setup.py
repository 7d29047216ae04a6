"""From a config to the objects of a run, before anything is computed or written."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import optax
from ml_collections import ConfigDict

from ntk_train.data import Dataset, Probe, largest_probe, load_dataset, make_probe
from ntk_train.models import create_model
from ntk_train.monitor import NTKHook, linen_fn
from ntk_train.spectrum import ReferenceKernels
from ntk_train.train.config import blame
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
    config: ConfigDict, setup: Setup, writer: Any, references: ReferenceKernels | None = None
) -> NTKHook | None:
    """Makes the hook that `config.ntk` describes, or None.

    Args:
      config: the whole config.
      setup: its objects.
      writer: of clu.
      references: earlier kernels of a run that is continued.

    Raises:
      ConfigError: a value of `config.ntk` is at fault.
    """
    if setup.probe is None:
        return None
    with blame("ntk"):
        return NTKHook(
            linen_fn(setup.model, train=False),
            setup.dataset.inputs(setup.probe.images),
            labels=setup.probe.labels,
            references=references,
            writer=writer,
            every_steps=config.ntk.every_steps,
            last_step=config.num_train_steps,
            outputs=config.ntk.outputs,
            implementation=config.ntk.implementation,
            batched=config.ntk.batched,
            precision=config.ntk.precision,
            max_overhead=config.ntk.max_overhead or None,
            write_hparams=False,  # the loop writes them with its own; writers take them once
        )
