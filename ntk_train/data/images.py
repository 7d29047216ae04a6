"""Decoding, cropping and flipping of a single image, with Pillow.

A `Preprocessing` makes uint8 [height, width, 3] of an encoded image, in one way for evaluation and
in a random way for training. The random numbers come from the caller, who derives them from
seed, epoch and index, so that a resumed run sees the same crops.
"""

import dataclasses
import io
import math
from typing import Any, Protocol

import numpy as np


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
        image = np.asarray(_rgb(_open(encoded)))
        if image.shape != self.shape:
            msg = f"the image has shape {image.shape}, expected {self.shape}"
            raise ValueError(msg)
        return image

    def augment(self, encoded: bytes, rng: np.random.Generator) -> np.ndarray:
        """A random crop of the padded image, flipped in half of the cases."""
        size, pad = self.size, self.pad
        padded = np.zeros((size + 2 * pad, size + 2 * pad, 3), np.uint8)
        padded[pad : pad + size, pad : pad + size] = self.evaluate(encoded)
        top, left, flip = rng.integers(0, (2 * pad + 1, 2 * pad + 1, 2))
        crop = padded[top : top + size, left : left + size]
        return crop[:, ::-1] if flip else crop


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
        image = _open(encoded)
        side = min(image.size) * self.size / self.resize
        left, top = (image.width - side) / 2, (image.height - side) / 2
        return self._resized(image, (left, top, side, side))

    def augment(self, encoded: bytes, rng: np.random.Generator) -> np.ndarray:
        """A random resized crop, flipped in half of the cases."""
        image = _open(encoded)
        box = random_box(image.width, image.height, rng)
        return self._resized(image, box, flip=bool(rng.integers(2)))

    def _resized(
        self, image: Any, box: tuple[float, float, float, float], *, flip: bool = False
    ) -> np.ndarray:
        """The part (left, top, width, height) of the image, resized; all in one pass."""
        from PIL import Image

        left, top, width, height = box
        full_width, full_height = image.size
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, for a fraction of the time; this
        # takes the smallest that still has all pixels which the resized crop needs.
        scale = max(self.size / width, self.size / height)
        if scale < 1:
            image.draft("RGB", (math.ceil(full_width * scale), math.ceil(full_height * scale)))
        image = _rgb(image)
        x, y = image.width / full_width, image.height / full_height
        corners = (left * x, top * y, (left + width) * x, (top + height) * y)
        inside = (*corners[:2], min(corners[2], image.width), min(corners[3], image.height))
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, inside)
        if flip:  # here, for NumPy takes ten times as long
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image)


def random_box(
    width: int, height: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A random part of an image: (left, top, width, height), whole pixels.

    Ten tries to fit the drawn area and aspect ratio, then the largest centre with an aspect ratio
    in range.
    """
    low, high = 3 / 4, 4 / 3
    area = rng.uniform(0.08, 1.0, 10) * width * height  # [10]
    ratio = np.exp(rng.uniform(math.log(low), math.log(high), 10))  # [10]
    place = rng.uniform(size=2)
    widths = np.round(np.sqrt(area * ratio)).astype(int)
    heights = np.round(np.sqrt(area / ratio)).astype(int)
    fits = np.flatnonzero((widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height))
    if len(fits):
        w, h = int(widths[fits[0]]), int(heights[fits[0]])
        left, top = (
            int(u * (rest + 1)) for u, rest in zip(place, (width - w, height - h), strict=True)
        )
        return left, top, w, h
    w = min(width, max(1, round(height * high)))
    h = min(height, max(1, round(width / low)))
    return (width - w) // 2, (height - h) // 2, w, h


def shrink(encoded: bytes, size: int) -> np.ndarray:
    """The whole image as uint8 [size, size, 3], by averaging over areas; aspect is not kept.

    Sides that are shorter than `size` are interpolated linearly.
    """
    from PIL import Image

    image = _rgb(_open(encoded))
    smaller = image.resize((min(size, image.width), min(size, image.height)), Image.Resampling.BOX)
    return np.asarray(smaller.resize((size, size), Image.Resampling.BILINEAR))


def _open(encoded: bytes) -> Any:
    """The image of Pillow; only its header is read yet."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        msg = "Images are decoded by Pillow: pip install pillow, or pip install 'ntk_train[train]'."
        raise ModuleNotFoundError(msg, name=error.name) from error
    return Image.open(io.BytesIO(encoded))


def _rgb(image: Any) -> Any:
    return image if image.mode == "RGB" else image.convert("RGB")
