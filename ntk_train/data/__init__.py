"""Labelled images: data sets by name, and the probe batch of the kernel.

    load_dataset("digits")  ->  Dataset(train=Source, test=Source)
                            ->  pipeline.train_batches, pipeline.eval_batches
                            ->  make_probe

To add a data set: write a file with a function that returns a `Dataset`, and enter it in
`DATASETS`. `ntk_train.data.pipeline` alone needs Grain, and is imported by the trainer only. Others
import what they need (Pillow, tensorflow-datasets) when they are called; nothing that reads imports
TensorFlow. docs/data.md says how the data sets are prepared.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ntk_train._registry import lookup
from ntk_train.data.bad_records import BadRecordError as BadRecordError
from ntk_train.data.cifar import load_cifar2 as load_cifar2
from ntk_train.data.cifar import load_cifar10 as load_cifar10
from ntk_train.data.dataset import ArraySource as ArraySource
from ntk_train.data.dataset import AugmentedSource as AugmentedSource
from ntk_train.data.dataset import Dataset as Dataset
from ntk_train.data.dataset import Source as Source
from ntk_train.data.digits import load_digits as load_digits
from ntk_train.data.faces import load_lfw_faces as load_lfw_faces
from ntk_train.data.imagenet import load_imagenet2012 as load_imagenet2012
from ntk_train.data.imagenet import load_mini_imagenet as load_mini_imagenet
from ntk_train.data.normalization import Normalization as Normalization
from ntk_train.data.prepared import NotPreparedError as NotPreparedError
from ntk_train.data.probe import Probe as Probe
from ntk_train.data.probe import ProbeChangedError as ProbeChangedError
from ntk_train.data.probe import check_probes as check_probes
from ntk_train.data.probe import largest_probe as largest_probe
from ntk_train.data.probe import load_probes as load_probes
from ntk_train.data.probe import make_probe as make_probe
from ntk_train.data.probe import save_probes as save_probes
from ntk_train.data.synthetic import load_synthetic as load_synthetic

DATASETS: Mapping[str, Callable[..., Dataset]] = MappingProxyType(
    {
        "digits": load_digits,
        "lfw_faces": load_lfw_faces,
        "synthetic": load_synthetic,
        "cifar2": load_cifar2,
        "cifar10": load_cifar10,
        "mini_imagenet": load_mini_imagenet,
        "imagenet2012": load_imagenet2012,
    }
)
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
