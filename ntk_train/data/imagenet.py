"""ImageNet (ILSVRC 2012) and MiniImageNet.

O. Russakovsky et al., *ImageNet Large Scale Visual Recognition Challenge*, IJCV 115, 2015. S. Ravi,
H. Larochelle, *Optimization as a Model for Few-Shot Learning*, ICLR 2017.
"""

import os
import pathlib

from ntk_train.data.dataset import Dataset, check_image_dtype
from ntk_train.data.images import PadCrop, Preprocessing, ResizedCrop
from ntk_train.data.normalization import IMAGENET
from ntk_train.data.prepared import find
from ntk_train.data.records import TfdsSource, class_names


def load_imagenet2012(
    *,
    image_size: int = 224,
    data_dir: str | os.PathLike[str] | None = None,
    image_dtype: str = "float32",
    on_bad_record: str = "raise",
) -> Dataset:
    """Loads ImageNet: 1 281 167 training images; the 50 000 of the validation split are the test.

    Images are float32 [image_size, image_size, 3], normalised by channel. For training, random
    resized crops (area 8 % to 100 %, aspect ratio 3/4 to 4/3), flipped at random; for evaluation,
    the centre after the shorter side is resized to 256/224 of `image_size`.

    Args:
      image_size: height and width.
      data_dir: where TFDS keeps its data sets; by default TFDS_DATA_DIR or ~/tensorflow_datasets.
      image_dtype: "float32", or "uint8" for normalisation on the device.
      on_bad_record: "raise" on an image that cannot be read, or "skip".

    Raises:
      NotPreparedError: it is not there; the text says how to prepare it.
      ValueError: an argument is out of its range.
    """
    if image_size < 1:
        msg = f"image_size={image_size!r}; expected 1 or more."
        raise ValueError(msg)
    check_image_dtype(image_dtype)
    preprocessing = ResizedCrop(image_size, round(image_size * 256 / 224))
    folder = find("imagenet2012", data_dir)
    return _dataset("imagenet2012", folder, "validation", preprocessing, image_dtype, on_bad_record)


def load_mini_imagenet(
    *,
    split: str = "holdout",
    data_dir: str | os.PathLike[str] | None = None,
    image_dtype: str = "float32",
    on_bad_record: str = "raise",
) -> Dataset:
    """Loads MiniImageNet: 100 classes of ImageNet with 600 images each, 84 x 84 pixels.

    Images are float32 [84, 84, 3], normalised by channel. For training they are padded by 8 pixels,
    cropped and flipped at random.

    Args:
      split: "holdout" for ordinary classification: of each class 500 images to train and 100 to
        test. "official" for the split by class of Ravi and Larochelle: training images of 64
        classes, test images of 20 others. Labels count all 100 classes in both.
      data_dir: where TFDS keeps its data sets; by default TFDS_DATA_DIR or ~/tensorflow_datasets.
      image_dtype: "float32", or "uint8" for normalisation on the device.
      on_bad_record: "raise" on an image that cannot be read, or "skip".

    Raises:
      NotPreparedError: it is not there; the text says how to prepare it.
      ValueError: an argument is out of its range.
    """
    if split not in ("holdout", "official"):
        msg = f"split={split!r}; expected 'holdout' or 'official'."
        raise ValueError(msg)
    check_image_dtype(image_dtype)
    folder = find("mini_imagenet" + ("/official" if split == "official" else ""), data_dir)
    preprocessing = PadCrop(size=84, pad=8)
    return _dataset("mini_imagenet", folder, "test", preprocessing, image_dtype, on_bad_record)


def _dataset(
    name: str,
    folder: pathlib.Path,
    test_split: str,
    preprocessing: Preprocessing,
    image_dtype: str,
    on_bad_record: str,
) -> Dataset:
    def source(split: str) -> TfdsSource:
        return TfdsSource(
            folder,
            split,
            preprocessing,
            normalization=IMAGENET if image_dtype == "float32" else None,
            on_bad_record=on_bad_record,
        )

    return Dataset(
        name=name,
        class_names=class_names(folder),
        image_shape=preprocessing.shape,
        train=source("train"),
        test=source(test_split),
        normalization=IMAGENET if image_dtype == "uint8" else None,
    )
