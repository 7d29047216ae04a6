"""CIFAR-10, and two of its classes.

60 000 images of 32 x 32 pixels, ten classes. A. Krizhevsky, *Learning Multiple Layers of Features
from Tiny Images*, University of Toronto, 2009.
"""

import os
from collections.abc import Sequence

from ntk_train._registry import unknown
from ntk_train.data.dataset import Dataset, check_image_dtype
from ntk_train.data.images import PadCrop
from ntk_train.data.normalization import CIFAR
from ntk_train.data.prepared import find
from ntk_train.data.records import TfdsSource

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
"""Names of the labels 0 to 9."""


def load_cifar10(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_dtype: str = "float32",
    on_bad_record: str = "raise",
) -> Dataset:
    """Loads CIFAR-10: 50 000 training and 10 000 test images.

    Images are float32 [32, 32, 3], normalised by channel. For training they are padded by 4 pixels,
    cropped and flipped at random.

    Args:
      data_dir: where TFDS keeps its data sets; by default TFDS_DATA_DIR or ~/tensorflow_datasets.
      image_dtype: "float32", or "uint8" for normalisation on the device.
      on_bad_record: "raise" on an image that cannot be read, or "skip".

    Raises:
      NotPreparedError: it is not there; the text says how to prepare it.
      ValueError: an argument is out of its range.
    """
    return _load("cifar10", CLASSES, data_dir, image_dtype, on_bad_record)


def load_cifar2(
    *,
    classes: Sequence[str] = ("airplane", "automobile"),
    data_dir: str | os.PathLike[str] | None = None,
    image_dtype: str = "float32",
    on_bad_record: str = "raise",
) -> Dataset:
    """Loads two classes of CIFAR-10: 10 000 training and 2 000 test images.

    "CIFAR-2" is another pair in different papers.

    Args:
      classes: two names of `CLASSES`, which get the labels 0 and 1 in this order.
      data_dir: as in `load_cifar10`.
      image_dtype: the same.
      on_bad_record: the same.

    Raises:
      NotPreparedError: CIFAR-10 is not there; the text says how to prepare it.
      ValueError: an argument is out of its range.
    """
    pair = (classes,) if isinstance(classes, str) else tuple(classes)
    for name in pair:
        if name not in CLASSES:
            raise ValueError(unknown("class of CIFAR-10", name, CLASSES))
    if len(set(pair)) != 2 or len(pair) != 2:
        msg = f"classes={classes!r}; cifar2 takes two different classes, ('cat', 'dog') say."
        raise ValueError(msg)
    return _load("cifar2", pair, data_dir, image_dtype, on_bad_record)


def _load(
    name: str,
    classes: tuple[str, ...],
    data_dir: str | os.PathLike[str] | None,
    image_dtype: str,
    on_bad_record: str,
) -> Dataset:
    check_image_dtype(image_dtype)
    folder = find(name, data_dir)
    preprocessing = PadCrop(size=32, pad=4)

    def source(split: str) -> TfdsSource:
        return TfdsSource(
            folder,
            split,
            preprocessing,
            normalization=CIFAR if image_dtype == "float32" else None,
            classes=[CLASSES.index(name) for name in classes],
            on_bad_record=on_bad_record,
        )

    return Dataset(
        name=name,
        class_names=classes,
        image_shape=preprocessing.shape,
        train=source("train"),
        test=source("test"),
        normalization=CIFAR if image_dtype == "uint8" else None,
    )
