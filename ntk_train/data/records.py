"""Random access to a data set that TFDS has prepared, without TensorFlow.

    ArrayRecord file --record i--> encoded image, label --Preprocessing--> uint8 --> float32

Images are decoded when they are asked for. Labels are kept in a small file beside the records.
"""

import copy
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ntk_train.data.bad_records import BadRecordError, BadRecords
from ntk_train.data.dataset import Example
from ntk_train.data.images import Preprocessing
from ntk_train.data.normalization import Normalization

_log = logging.getLogger(__name__)

_CHUNK = 256  # records that are read at once for their labels


class TfdsSource:
    """A `Source` of one split of a prepared data set; also `augmented`.

    Args:
      folder: with `dataset_info.json`, as `prepared.find` returns it.
      split: as TFDS calls it.
      preprocessing: what is done with an image.
      normalization: applied on the host; None for images in uint8.
      classes: labels of the records to keep, which are then counted from 0 in this order; None for
        all.
      on_bad_record: "raise", or "skip" to take the next good record in the place of a bad one.

    Raises:
      ValueError: the split does not exist or has no examples, or `on_bad_record` is unknown.
      BadRecordError: a label is out of range.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        split: str,
        preprocessing: Preprocessing,
        *,
        normalization: Normalization | None = None,
        classes: Sequence[int] | None = None,
        on_bad_record: str = "raise",
    ) -> None:
        self._name = f"{folder}, split {split!r}"
        self._preprocessing, self.normalization = preprocessing, normalization
        self._records, num_classes = open_split(folder, split)
        stored = split_labels(self._records, folder, split, num_classes)  # [records]
        if classes is None:
            self._indices, self.labels = np.arange(len(stored)), stored
        else:
            new = np.full(num_classes, -1, np.int32)
            new[list(classes)] = np.arange(len(classes))
            self._indices = np.flatnonzero(new[stored] >= 0)
            self.labels = new[stored[self._indices]]
        self._stored = stored
        if len(self.labels) == 0:
            msg = f"{self._name} has no examples" + ("." if classes is None else f" of {classes}.")
            raise ValueError(msg)
        self._bad = BadRecords(self._name, len(self.labels), on_bad_record)

    def __len__(self) -> int:
        """The number of examples N."""
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        """The example of that index, 0 to N - 1, never augmented.

        Raises:
          BadRecordError: it cannot be read; the text names file, split and index of the record.
        """
        return self._bad.read(index, lambda i: self._example(i, None))

    def augmented(self, index: int, rng: np.random.Generator) -> Example:
        """The same example with random changes for training, drawn from `rng`."""
        # A copy for each try: a replaced record gets the numbers that the bad one would have had.
        state = rng.bit_generator.state

        def read(i: int) -> Example:
            rng.bit_generator.state = state
            return self._example(i, rng)

        return self._bad.read(index, read)

    def pixels(self) -> "TfdsSource":
        """The same examples in uint8; both count their bad records together."""
        source = copy.copy(self)
        source.normalization = None
        return source

    def __repr__(self) -> str:
        """Names the files; Grain puts this into its messages."""
        return f"TfdsSource({self._name})"

    @property
    def bad_records(self) -> frozenset[int]:
        """Indices that were skipped so far."""
        return frozenset(self._bad.seen)

    def report_bad_records(self) -> None:
        """Logs how many were skipped, if there are more than at the last time."""
        self._bad.report()

    def _example(self, index: int, rng: np.random.Generator | None) -> Example:
        record_index = int(self._indices[index])
        preprocessing = self._preprocessing
        try:
            record = self._records[record_index]
            encoded = bytes(record["image"])
            if rng is None:
                image = preprocessing.evaluate(encoded)
            else:
                image = preprocessing.augment(encoded, rng)
        except ModuleNotFoundError:
            raise
        # OpenCV, Pillow, Protobuf and ArrayRecord each raise what they like on damaged bytes.
        except Exception as error:
            msg = f"{self._name}, record {record_index}: {type(error).__name__}: {error}."
            raise BadRecordError(msg) from error
        if int(record["label"]) != self._stored[record_index]:
            msg = (
                f"{self._name}, record {record_index}: its label is {int(record['label'])}, the "
                f"file of labels has {self._stored[record_index]}. Delete {LABELS.format('*')}."
            )
            raise BadRecordError(msg)
        if self.normalization is not None:
            image = self.normalization(image)
        return {"image": np.ascontiguousarray(image), "label": self.labels[index]}


LABELS = "ntk_train_labels_{}.npy"
"""The file beside the records that has the labels of a split."""


def open_split(folder: pathlib.Path, split: str) -> tuple[Sequence[Any], int]:
    """The records of a split, images still encoded, and the number of classes.

    Raises:
      ValueError: there is no such split, or it is empty.
      ModuleNotFoundError: tensorflow-datasets is not installed.
    """
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        msg = f"{folder} is read by tensorflow-datasets: pip install 'ntk_train[train]'."
        raise ModuleNotFoundError(msg, name=error.name) from error
    builder = tfds.builder_from_directory(str(folder))
    sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
    if not sizes.get(split):
        what = "is empty" if split in sizes else "is missing"
        has = ", ".join(f"{name} ({size})" for name, size in sizes.items()) or "none"
        msg = f"{folder}: split {split!r} {what}; there are: {has}. Prepare the data set again."
        raise ValueError(msg)
    records = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    return records, builder.info.features["label"].num_classes


def class_names(folder: pathlib.Path) -> tuple[str, ...]:
    """The names of the labels, in order."""
    import tensorflow_datasets as tfds

    return tuple(tfds.builder_from_directory(str(folder)).info.features["label"].names)


def split_labels(
    records: Sequence[Any], folder: pathlib.Path, split: str, num_classes: int
) -> np.ndarray:
    """All labels [N] int32, from their file or from the records, which are then read once."""
    path = folder / LABELS.format(split)
    if path.exists():
        labels = np.load(path)
        if labels.shape != (len(records),):
            msg = f"{path} has shape {labels.shape}, expected ({len(records)},). Delete the file."
            raise ValueError(msg)
    else:
        labels = _read_labels(records, folder, split)
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        msg = (
            f"{folder}, split {split!r}, record {wrong[0]}: label {labels[wrong[0]]} is out of "
            f"range, expected 0 to {num_classes - 1}."
        )
        raise BadRecordError(msg)
    if not path.exists():
        _save(path, labels)
    return labels


def _read_labels(records: Sequence[Any], folder: pathlib.Path, split: str) -> np.ndarray:
    if len(records) > 100_000:
        _log.warning("Reading %s once for the labels of split %r.", folder, split)
    labels = np.empty(len(records), np.int32)
    for first in range(0, len(records), _CHUNK):
        chunk = range(first, min(first + _CHUNK, len(records)))
        try:
            read = records.__getitems__(list(chunk))  # type: ignore[attr-defined]
            labels[chunk.start : chunk.stop] = [int(record["label"]) for record in read]
        # As above. Labels have no replacement: the file itself is damaged.
        except Exception as error:
            msg = (
                f"{folder}, split {split!r}, records {chunk.start} to {chunk.stop - 1}: "
                f"{type(error).__name__}: {error}. The files are damaged; prepare them again."
            )
            raise BadRecordError(msg) from error
    return labels


def _save(path: pathlib.Path, labels: np.ndarray) -> None:
    """Writes the file in one piece, so that processes which start together do not meet half."""
    part = path.with_name(f"{path.stem}.{os.getpid()}.npy")
    try:
        np.save(part, labels)
        part.replace(path)
    except OSError as error:  # a folder that is read-only: the next start reads the records again
        _log.info("The labels were not kept: %s", error)
