"""Labelled images: data sets by name, and the probe batch of the kernel.

    load_dataset("digits")  ->  Dataset(train=Source, test=Source)
                            ->  pipeline.train_batches, pipeline.eval_batches
                            ->  make_probe

To add a data set: write a file with a function that returns a `Dataset`, and enter it in
`DATASETS`. `ntk_train.data.pipeline` alone needs Grain, and is imported by the trainer only.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ntk_train._registry import lookup
from ntk_train.data.dataset import ArraySource as ArraySource
from ntk_train.data.dataset import Dataset as Dataset
from ntk_train.data.dataset import Source as Source
from ntk_train.data.digits import load_digits as load_digits
from ntk_train.data.probe import Probe as Probe
from ntk_train.data.probe import make_probe as make_probe

DATASETS: Mapping[str, Callable[..., Dataset]] = MappingProxyType({"digits": load_digits})
"""The functions that load a data set, by its name."""


def load_dataset(name: str, **kwargs: Any) -> Dataset:
    """Loads the data set of that name.

    Args:
      name: a key of `DATASETS`.
      **kwargs: of its function.

    Raises:
      ValueError: no such data set, or a value that it does not take.
      TypeError: an argument that it does not have.
    """
    return lookup(DATASETS, name, "dataset")(**kwargs)
