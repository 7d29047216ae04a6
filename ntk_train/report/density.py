"""The histograms of the eigenvalues over the steps, as one small picture.

column = a step, row = an order of magnitude, shade = share of the eigenvalues there
"""

import struct
import zlib
from collections.abc import Mapping

import numpy as np

_COLUMNS, _ROWS = 240, 96
_COLOUR = (0, 114, 178)


def density_picture(
    histograms: Mapping[int, np.ndarray],
) -> tuple[bytes, float, float, int, int] | None:
    """Draws histograms of log10 eigenvalues; each holds until the next step that has one.

    Args:
      histograms: by step, buckets [b, 3]: left edge, right edge, count.

    Returns:
      The PNG, the eigenvalues at its lower and upper edge, and the steps at its left and right;
      None for fewer than two steps.
    """
    filled = {step: buckets for step, buckets in histograms.items() if buckets[:, 2].sum() > 0}
    if len(filled) < 2:
        return None
    steps = np.array(sorted(filled))
    occupied = np.concatenate([b[b[:, 2] > 0, :2] for b in filled.values()])
    low, high = float(occupied.min()), float(occupied.max())
    low, high = low - 0.02, max(high + 0.02, low + 0.1)
    edges = np.linspace(low, high, _ROWS + 1)
    columns = np.stack([_column(filled[step], edges) for step in steps], axis=1)
    at = np.linspace(steps[0], steps[-1], _COLUMNS)
    shades = columns[:, np.searchsorted(steps, at, side="right") - 1]
    alpha = np.round(200 * np.sqrt(shades / shades.max())).astype(np.uint8)
    png = encode_png(alpha[::-1], _COLOUR)
    return png, 10.0**low, 10.0**high, int(steps[0]), int(steps[-1])


def _column(buckets: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The share of the entries in each row: that of the buckets it overlaps, evenly spread."""
    order = np.argsort(buckets[:, 1])
    right, count = buckets[order, 1], buckets[order, 2]
    left = buckets[order, 0]
    width = np.maximum(right - left, 1e-3)
    below = np.clip((edges[:, None] - left) / width, 0, 1) @ count
    return np.diff(below) / count.sum()


def encode_png(alpha: np.ndarray, colour: tuple[int, int, int]) -> bytes:
    """A PNG of one colour with the opacity [height, width] uint8, by a palette of opacities."""
    height, width = alpha.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in alpha)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", bytes(colour) * 256),
        (b"tRNS", bytes(range(256))),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body
