"""The probe batch: the inputs of the kernel, the same at every step of a run.

>>> from ntk_train.data import load_dataset, make_probe
>>> probe = make_probe(load_dataset("digits", classes=(4, 9)).train, size=16, seed=0)
>>> probe.images.shape, probe.labels.tolist().count(0)
((16, 8, 8, 1), 8)
"""

import dataclasses
import hashlib

import numpy as np

from ntk_train.data.dataset import Source


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """Images on which a kernel is computed.

    Attributes:
      images: [N, height, width, channels] float32, never augmented.
      labels: [N] int32.
      indices: [N] int64, where the images stand in their source.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    @property
    def checksum(self) -> str:
        """16 hexadecimal digits: two runs with the same one have the same probe."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        for array in (self.images, self.labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def make_probe(source: Source, *, size: int, seed: int) -> Probe:
    """Draws a class-balanced probe batch at random, without replacement.

    Each class has `size // C` images, and where C does not divide `size`, some have one more.

    Args:
      source: where the images come from, usually the training part.
      size: the number of images N.
      seed: of the choice. The same seed and source give the same probe on every machine.

    Returns:
      The probe, ordered by class.

    Raises:
      ValueError: `size` is smaller than the number of classes, or a class has too few images.
    """
    classes, available = np.unique(source.labels, return_counts=True)
    rng = np.random.default_rng(seed)
    wanted = _wanted(size, len(classes), rng)
    if np.any(wanted > available):
        short = int(np.argmax(wanted - available))
        msg = (
            f"size={size} asks for {wanted[short]} images of class {classes[short]}, which has "
            f"{available[short]}. Take a probe of at most {available.min() * len(classes)} images."
        )
        raise ValueError(msg)
    indices = np.concatenate(
        [
            np.sort(rng.choice(np.flatnonzero(source.labels == label), count, replace=False))
            for label, count in zip(classes, wanted, strict=True)
        ]
    )
    examples = [source[int(index)] for index in indices]
    return Probe(
        images=np.stack([example["image"] for example in examples]),
        labels=np.stack([example["label"] for example in examples]),
        indices=indices,
    )


def _wanted(size: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """How many images of each class; the classes with one more are drawn at random."""
    if size < num_classes:
        msg = f"size={size}; a balanced probe of {num_classes} classes has at least one image each."
        raise ValueError(msg)
    wanted = np.full(num_classes, size // num_classes)
    wanted[rng.choice(num_classes, size % num_classes, replace=False)] += 1
    return wanted
