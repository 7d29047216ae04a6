"""Examples that cannot be read: named, and where wished skipped and counted."""

import logging
from collections.abc import Callable
from typing import TypeVar

from ntk_train.errors import NTKError

T = TypeVar("T")

_log = logging.getLogger(__name__)

MODES = ("raise", "skip")

MOST_IN_A_ROW = 100
"""More bad records than this in a row are no accident, but a damaged file: an error."""


class BadRecordError(NTKError, ValueError):
    """A record of a data set cannot be read or is not what it should be."""


class BadRecords:
    """What is done about records that cannot be read, and which they were.

    Attributes:
      seen: their indices, so far.
    """

    def __init__(self, name: str, size: int, on_bad_record: str) -> None:
        """See `ntk_train.data.records.TfdsSource`.

        Raises:
          ValueError: `on_bad_record` is none of `MODES`.
        """
        if on_bad_record not in MODES:
            msg = f"on_bad_record={on_bad_record!r}; expected 'raise' or 'skip'."
            raise ValueError(msg)
        self._name, self._size, self._skips = name, size, on_bad_record == "skip"
        self.seen: set[int] = set()
        self._reported = 0

    def read(self, index: int, read: Callable[[int], T]) -> T:
        """`read(index)`; if it fails and is to be skipped, that of the next index that does not.

        The end of the data set is followed by its start, so that the replacement depends on the
        data alone.

        Raises:
          BadRecordError: the record is bad and is not to be skipped, or too many after it are.
        """
        for offset in range(min(MOST_IN_A_ROW, self._size)):
            try:
                return read((index + offset) % self._size)
            except BadRecordError as error:
                if not self._skips:
                    raise
                self._note((index + offset) % self._size, error)
        msg = (
            f"{self._name}: none of the {min(MOST_IN_A_ROW, self._size)} records from index {index}"
            " on can be read. The files are damaged; prepare the data set again."
        )
        raise BadRecordError(msg)

    def report(self) -> None:
        """Logs how many there were, if there are more than at the last report."""
        if len(self.seen) > self._reported:
            self._reported = len(self.seen)
            _log.warning(
                "%s: %d of %d records are bad so far and were replaced by the next good one: "
                "indices %s%s.",
                self._name,
                self._reported,
                self._size,
                ", ".join(str(index) for index in sorted(self.seen)[:10]),
                ", ..." if self._reported > 10 else "",
            )

    def _note(self, index: int, error: BadRecordError) -> None:
        if not self.seen:
            _log.warning("Skipped, as will be any more without a message for each: %s", error)
        self.seen.add(index)
