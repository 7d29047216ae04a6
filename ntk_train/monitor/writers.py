"""Writers of others as the metric writer that the hook calls, known by the methods they have.

    write_scalars(step, {tag: value})   clu's `MetricWriter`, `TensorBoardWriter`: as they are
    add_scalar(tag, value, step)        `SummaryWriter` of tensorboardX and of PyTorch
    scalar(tag, value, step)            Flax's `SummaryWriter`

What a writer has no method for is not written. To take another kind, give it a class here with the
methods of `MetricWriter` that it has a use for, and a line in `as_metric_writer`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np

from ntk_train.errors import KernelInputError

_HISTOGRAM_BINS = 30  # as TensorFlow's summaries have


@runtime_checkable
class MetricWriter(Protocol):
    """What the hook asks of a writer: to write numbers. The methods of `FullWriter` may be missing.

    They are called on a thread beside the loop, one after the other.
    """

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes numbers by tag."""


@runtime_checkable
class FullWriter(MetricWriter, Protocol):
    """All that the hook has for a writer: the methods of clu's `MetricWriter`."""

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images [N, H, W, C] by tag, uint8."""

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes the distribution of all entries of each array, by tag."""

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes Markdown by tag."""

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the hyper-parameters of the run, once."""

    def write_summaries(
        self, step: int, values: Mapping[str, Any], metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Writes tensors by tag, for a plugin of TensorBoard that the metadata name."""

    def flush(self) -> None:
        """Writes what is still in memory."""


Kind: TypeAlias = Literal[
    "write_scalars",
    "write_images",
    "write_histograms",
    "write_texts",
    "write_hparams",
    "write_summaries",
    "flush",
]


def method_of(writer: object, kind: Kind) -> Callable[..., None] | None:
    """A method of a writer; None where it has none of this kind, or there is no writer."""
    return getattr(writer, kind, None)


def as_metric_writer(writer: object) -> MetricWriter | None:
    """What anybody may give the hook as its writer, with the methods of a `MetricWriter`.

    Args:
      writer: one that has them, a `SummaryWriter`, or None.

    Raises:
      KernelInputError: it is none of these.
    """
    if writer is None:
        return None
    if not isinstance(writer, type):
        if callable(getattr(writer, "write_scalars", None)):
            return cast(MetricWriter, writer)
        if callable(getattr(writer, "add_scalar", None)):
            return TagWriter(writer)
        if callable(getattr(writer, "scalar", None)):
            return FlaxWriter(writer)
    got = f"the class {writer.__name__}" if isinstance(writer, type) else repr(writer)
    msg = (
        f"writer is {got}; expected an object with clu's write_scalars, a SummaryWriter of Flax or "
        "tensorboardX, or None. ntk_train.monitor.tensorboard_writer(folder) makes one."
    )
    raise KernelInputError(msg)


class TagWriter:
    """Writes to an object that takes one tag at a time, as tensorboardX's `SummaryWriter`.

    Args:
      writer: with `add_scalar`, `add_image`, `add_histogram` and `add_text`.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes numbers."""
        for tag, value in scalars.items():
            self._writer.add_scalar(tag, float(value), step)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Writes images [H, W, C] or [N, H, W, C], uint8 or from 0 to 1; N side by side."""
        for tag, image in images.items():
            self._writer.add_image(tag, _side_by_side(image), step, dataformats="HWC")

    def write_histograms(
        self,
        step: int,
        arrays: Mapping[str, Any],
        num_buckets: Mapping[str, int] | None = None,
    ) -> None:
        """Writes histograms of all entries that are finite."""
        for tag, array in arrays.items():
            entries = _finite(array)
            if entries.size:
                bins = (num_buckets or {}).get(tag, _HISTOGRAM_BINS)
                self._writer.add_histogram(tag, entries, step, bins=bins)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes Markdown."""
        for tag, text in texts.items():
            self._writer.add_text(tag, text, step)

    def write_charts(self, charts: Mapping[str, Mapping[str, list[Any]]]) -> None:
        """Writes the layout of "Custom Scalars", as `add_custom_scalars` takes it."""
        self._writer.add_custom_scalars(charts)

    def flush(self) -> None:
        """Writes what is still in memory to the file."""
        self._writer.flush()


class FlaxWriter:
    """Writes to `flax.metrics.tensorboard.SummaryWriter`.

    Args:
      writer: with its methods.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def write_summaries(
        self,
        step: int,
        values: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes tensors as they are, for a plugin that the metadata name."""
        for tag, value in values.items():
            about = (metadata or {}).get(tag)
            about = None if about is None else about.SerializeToString()
            self._writer.write(tag, value, step, metadata=about)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes numbers."""
        for tag, value in scalars.items():
            self._writer.scalar(tag, value, step)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Writes images [H, W, C] or [N, H, W, C], uint8 or from 0 to 1; N side by side."""
        for tag, image in images.items():
            self._writer.image(tag, _side_by_side(image), step)

    def write_histograms(
        self,
        step: int,
        arrays: Mapping[str, Any],
        num_buckets: Mapping[str, int] | None = None,
    ) -> None:
        """Writes histograms of all entries that are finite."""
        for tag, array in arrays.items():
            bins = (num_buckets or {}).get(tag, _HISTOGRAM_BINS)
            self._writer.histogram(tag, _finite(array), step, bins=bins)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes Markdown."""
        for tag, text in texts.items():
            self._writer.text(tag, text, step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the hyper-parameters of the run."""
        self._writer.hparams(dict(hparams))

    def flush(self) -> None:
        """Writes what is still in memory to the file."""
        self._writer.flush()


def _side_by_side(image: Any) -> np.ndarray:
    """Images [H, W, C] or [N, H, W, C] as one [H, N W, C]."""
    image = np.asarray(image)
    return image if image.ndim == 3 else np.concatenate(list(image), axis=1)


def _finite(array: Any) -> np.ndarray:
    entries = np.asarray(array, dtype=np.float64).ravel()
    return entries[np.isfinite(entries)]
