"""Cropping, resizing and flipping of a single image.

A `Preprocessing` makes uint8 [height, width, 3] of an encoded image, in one way for evaluation and
in a random way for training. The random numbers come from the caller, who derives them from
seed, epoch and index, so that a resumed run sees the same crops.
"""

import dataclasses
import math
from typing import Protocol

import numpy as np

from ntk_train.data.decode import REDUCED, EncodedImage, flip, open_image, resize, rgb


class Preprocessing(Protocol):
    """From the bytes of an image file to an array of one shape."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3) of what is returned."""

    def evaluate(self, encoded: bytes) -> np.ndarray:
        """Without chance, uint8."""

    def augment(self, encoded: bytes, rng: np.random.Generator) -> np.ndarray:
        """With random changes for training, uint8."""


@dataclasses.dataclass(frozen=True)
class PadCrop:
    """Images of one size: padded with black, cropped at random to the same size, flipped.

    K. He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, section 4.2 (pad 4).

    Attributes:
      size: height and width of the images.
      pad: pixels on each side.
    """

    size: int
    pad: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(size, size, 3)."""
        return (self.size, self.size, 3)

    def evaluate(self, encoded: bytes) -> np.ndarray:
        """The image as it is.

        Raises:
          ValueError: it has another size.
        """
        image = EncodedImage(encoded).pixels()
        if image.shape != self.shape:
            msg = f"the image has shape {image.shape}, expected {self.shape}"
            raise ValueError(msg)
        return image

    def augment(self, encoded: bytes, rng: np.random.Generator) -> np.ndarray:
        """A random crop of the padded image, flipped in half of the cases."""
        size, pad = self.size, self.pad
        padded = np.zeros((size + 2 * pad, size + 2 * pad, 3), np.uint8)
        padded[pad : pad + size, pad : pad + size] = self.evaluate(encoded)
        top, left, mirrored = rng.integers(0, (2 * pad + 1, 2 * pad + 1, 2))
        crop = padded[top : top + size, left : left + size]
        return crop[:, ::-1] if mirrored else crop


@dataclasses.dataclass(frozen=True)
class ResizedCrop:
    """Photos of any size: a random resized crop for training, the centre for evaluation.

    The random crop has an area of 8 % to 100 % of the image and an aspect ratio of 3/4 to 4/3. C.
    Szegedy et al., *Going Deeper with Convolutions*, CVPR 2015, section 6.

    Attributes:
      size: height and width of what is returned.
      resize: the shorter side at evaluation, before the centre is cropped.
    """

    size: int = 224
    resize: int = 256

    @property
    def shape(self) -> tuple[int, int, int]:
        """(size, size, 3)."""
        return (self.size, self.size, 3)

    def evaluate(self, encoded: bytes) -> np.ndarray:
        """The shorter side resized to `resize`, the centre cropped to `size`."""
        image = EncodedImage(encoded)
        side = min(image.width, image.height) * self.size / self.resize
        left, top = (image.width - side) / 2, (image.height - side) / 2
        return self._resized(image, (left, top, side, side))

    def augment(self, encoded: bytes, rng: np.random.Generator) -> np.ndarray:
        """A random resized crop, flipped in half of the cases."""
        image = EncodedImage(encoded)
        box = random_box(image.width, image.height, rng)
        resized = self._resized(image, box)
        return flip(resized) if rng.integers(2) else resized

    def _resized(self, image: EncodedImage, box: tuple[float, float, float, float]) -> np.ndarray:
        """The part (left, top, width, height) of the image, resized."""
        left, top, width, height = box
        # The smallest that still has all pixels which the resized crop needs.
        shorter = min(width, height)
        reduced = next((by for by in REDUCED if shorter >= by * self.size), 1)
        pixels = image.pixels(reduced)
        rows = _whole(top, height, pixels.shape[0], pixels.shape[0] / image.height)
        columns = _whole(left, width, pixels.shape[1], pixels.shape[1] / image.width)
        return resize(pixels[rows, columns], self.size)


def _whole(start: float, length: float, limit: int, scale: float) -> slice:
    """The pixels nearest to a part of an axis, after scaling; at least one."""
    first = min(round(start * scale), limit - 1)
    return slice(first, min(max(round((start + length) * scale), first + 1), limit))


def random_box(
    width: int, height: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A random part of an image: (left, top, width, height), whole pixels.

    Ten tries to fit the drawn area and aspect ratio, then the largest centre with an aspect ratio
    in range.
    """
    low, high = 3 / 4, 4 / 3
    draws = rng.random((11, 2)).tolist()  # in Python from here: NumPy takes 50 us for so few
    for for_area, for_ratio in draws[1:]:
        area = (0.08 + 0.92 * for_area) * width * height
        ratio = low * (high / low) ** for_ratio
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 1 <= w <= width and 1 <= h <= height:
            left, top = draws[0]
            return int(left * (width - w + 1)), int(top * (height - h + 1)), w, h
    w = min(width, max(1, round(height * high)))
    h = min(height, max(1, round(width / low)))
    return (width - w) // 2, (height - h) // 2, w, h


def shrink(encoded: bytes, size: int) -> np.ndarray:
    """The whole image as uint8 [size, size, 3], by averaging over areas; aspect is not kept.

    Sides that are shorter than `size` are interpolated linearly.
    """
    from PIL import Image

    image = rgb(open_image(encoded))
    smaller = image.resize((min(size, image.width), min(size, image.height)), Image.Resampling.BOX)
    return np.asarray(smaller.resize((size, size), Image.Resampling.BILINEAR))
