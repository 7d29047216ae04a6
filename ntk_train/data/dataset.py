"""The one form in which the trainer takes a data set: random access to labelled images."""

import dataclasses
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from ntk_train.data.normalization import Normalization

Example: TypeAlias = dict[str, np.ndarray]
"""{"image": [height, width, channels] float32 or uint8, "label": [] int32}."""


class Source(Protocol):
    """Random access to the examples of a split; what Grain takes as a source, with the labels."""

    @property
    def labels(self) -> np.ndarray:
        """All labels [N] int32, without reading an image."""

    def __len__(self) -> int:
        """The number of examples N."""

    def __getitem__(self, index: int) -> Example:
        """The example of that index, 0 to N - 1, never augmented."""


@runtime_checkable
class AugmentedSource(Protocol):
    """What a `Source` may have too: examples changed at random, for training."""

    def augmented(self, index: int, rng: np.random.Generator) -> Example:
        """The example of that index; all that is random in it is drawn from `rng`."""


@runtime_checkable
class PixelSource(Protocol):
    """What a `Source` may have too: its images before they are normalised."""

    @property
    def normalization(self) -> Normalization | None:
        """What is done with the pixels, on the host; None for images in uint8."""

    def pixels(self) -> Source:
        """The same examples in uint8; augmented too, if this source can."""


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """A `Source` in memory.

    Attributes:
      images: [N, height, width, channels] float32.
      labels: [N] int32.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        """Refuses images and labels of different number."""
        assert len(self.images) == len(self.labels), (len(self.images), len(self.labels))

    def __len__(self) -> int:
        """The number of examples N."""
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        """The example of that index."""
        return {"image": self.images[index], "label": self.labels[index]}

    def __repr__(self) -> str:
        """Names the shape, not the numbers; Grain puts this into its messages."""
        return f"ArraySource(images={self.images.shape}, {self.images.dtype})"


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification problem on images.

    Attributes:
      name: how messages call it.
      class_names: the name of each label, in order.
      image_shape: (height, width, channels).
      train: the examples to train on.
      test: the examples that training never sees.
      normalization: of images that the sources give in uint8, to be done on the device; None if
        they give them in float32.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train: Source
    test: Source
    normalization: Normalization | None = None

    @property
    def num_classes(self) -> int:
        """C; labels are 0 to C - 1."""
        return len(self.class_names)

    def inputs(self, images: Any) -> Any:
        """What a network takes, float32, of images as the sources give them, of NumPy or JAX."""
        return images if self.normalization is None else self.normalization(images)


def check_image_dtype(image_dtype: str) -> None:
    """Refuses another dtype than "float32" and "uint8".

    Raises:
      ValueError: it is another one.
    """
    if image_dtype not in ("float32", "uint8"):
        msg = f"image_dtype={image_dtype!r}; expected 'float32' or 'uint8'."
        raise ValueError(msg)


def standardized(
    name: str,
    class_names: tuple[str, ...],
    images: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
) -> Dataset:
    """A data set in memory, shifted and scaled by all pixels of its training part.

    Args:
      name: how messages call it.
      class_names: the name of each label, in order.
      images: [N, height, width] of one channel.
      labels: [N] int32.
      train: indices of the training part.
      test: indices of the test part.
    """
    mean, std = images[train].mean(), images[train].std()
    scaled = ((images - mean) / std).astype(np.float32)[..., None]  # [N, height, width, 1]
    return Dataset(
        name=name,
        class_names=class_names,
        image_shape=scaled.shape[1:],
        train=ArraySource(scaled[train], labels[train]),
        test=ArraySource(scaled[test], labels[test]),
    )
