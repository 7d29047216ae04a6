"""Made-up images of any shape, number and number of classes: for benchmarks and smoke runs.

    image n = pattern of its class + noise

Each image depends on seed, part and index alone and is made when it is asked for, so that a set of
any size takes no memory.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ntk_train.data.dataset import Dataset, Example, check_image_dtype
from ntk_train.data.normalization import Normalization

_NORMALIZATION = Normalization((0.5,), (0.25,))


@dataclasses.dataclass(frozen=True, eq=False)
class SyntheticSource:
    """A `Source` that draws an image when it is asked for.

    Attributes:
      patterns: [C, height, width, channels] uint8, of each class.
      labels: [N] int32.
      key: the integers that seed the noise, before the index.
      image_dtype: "float32" or "uint8".
    """

    patterns: np.ndarray
    labels: np.ndarray
    key: tuple[int, ...]
    image_dtype: str

    def __len__(self) -> int:
        """The number of examples N."""
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        """The example of that index."""
        label = self.labels[index]
        rng = np.random.default_rng((*self.key, int(index)))
        noise = rng.integers(0, 128, self.patterns.shape[1:], np.uint8)
        image = self.patterns[label] + noise  # at most 127 + 127
        return {
            "image": _NORMALIZATION(image) if self.image_dtype == "float32" else image,
            "label": label,
        }

    def __repr__(self) -> str:
        """Names the size, not the numbers."""
        return f"SyntheticSource({len(self)} x {self.patterns.shape[1:]}, {self.image_dtype})"


def load_synthetic(
    *,
    image_shape: Sequence[int] = (32, 32, 3),
    num_classes: int = 10,
    train_size: int = 1024,
    test_size: int = 256,
    seed: int = 0,
    image_dtype: str = "float32",
) -> Dataset:
    """Makes a data set of as many images as you like; labels take turns.

    Args:
      image_shape: (height, width, channels).
      num_classes: C, at least 2.
      train_size: the number of training images, at least C.
      test_size: the number of test images, at least 1.
      seed: of patterns and noise.
      image_dtype: "float32", or "uint8" for normalisation on the device.

    Raises:
      ValueError: an argument is out of its range; the text names it.
    """
    check_image_dtype(image_dtype)
    shape = tuple(image_shape)
    if len(shape) != 3 or min(shape) < 1:
        msg = f"image_shape={image_shape!r}; expected (height, width, channels)."
        raise ValueError(msg)
    for name, value, least in (
        ("num_classes", num_classes, 2),
        ("train_size", train_size, num_classes),
        ("test_size", test_size, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            msg = f"{name}={value!r}; expected {least} or more."
            raise ValueError(msg)
    patterns = np.random.default_rng(seed).integers(0, 128, (num_classes, *shape), np.uint8)

    def source(part: int, size: int) -> SyntheticSource:
        labels = (np.arange(size) % num_classes).astype(np.int32)
        return SyntheticSource(patterns, labels, (seed, part), image_dtype)

    height, width, channels = shape
    return Dataset(
        name="synthetic",
        class_names=tuple(str(label) for label in range(num_classes)),
        image_shape=(height, width, channels),
        train=source(0, train_size),
        test=source(1, test_size),
        normalization=_NORMALIZATION if image_dtype == "uint8" else None,
    )
