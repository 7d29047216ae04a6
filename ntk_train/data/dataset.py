"""The one form in which the trainer takes a data set: random access to labelled images."""

import dataclasses
from typing import Protocol, TypeAlias

import numpy as np

Example: TypeAlias = dict[str, np.ndarray]
"""{"image": [height, width, channels] float32, "label": [] int32}."""


class Source(Protocol):
    """Random access to the examples of a split; what Grain takes as a source, with the labels."""

    @property
    def labels(self) -> np.ndarray:
        """All labels [N] int32, without reading an image."""

    def __len__(self) -> int:
        """The number of examples N."""

    def __getitem__(self, index: int) -> Example:
        """The example of that index, 0 to N - 1, never augmented."""


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
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train: Source
    test: Source

    @property
    def num_classes(self) -> int:
        """C; labels are 0 to C - 1."""
        return len(self.class_names)
