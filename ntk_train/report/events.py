"""TensorBoard's event files as records, without TensorFlow.

    file:   length uint64, its checksum uint32, Event, checksum uint32;  again and again

The protocol buffers and the migration of old summaries to tensors are tensorboard's. Its own
loaders import TensorFlow where that is installed, and without it checksum each byte in Python.
"""

import pathlib
import struct
from collections.abc import Iterator
from typing import Any

_HEADER = struct.Struct("<QI")


class DamagedError(ValueError):
    """An event file that ends in the middle of a record, or holds something else."""


def read_events(path: pathlib.Path) -> Iterator[Any]:
    """Yields the `Event`s of a file, with all summaries as tensors.

    Raises:
      DamagedError: after the last whole record, if the file does not end there.
    """
    from tensorboard import data_compat
    from tensorboard.compat.proto import event_pb2

    for record in _records(path):
        yield data_compat.migrate_event(event_pb2.Event.FromString(record))


def _records(path: pathlib.Path) -> Iterator[bytes]:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    with path.open("rb") as file:
        while header := file.read(_HEADER.size):
            if len(header) < _HEADER.size:
                msg = f"{path.name} ends within a record: the run was killed, or still writes."
                raise DamagedError(msg)
            length, checksum = _HEADER.unpack(header)
            if masked_crc32c(header[:8]) != checksum:
                msg = f"{path.name} is damaged; what comes before byte {file.tell()} was read."
                raise DamagedError(msg)
            record = file.read(length + 4)
            if len(record) < length + 4:
                msg = f"{path.name} ends within a record: the run was killed, or still writes."
                raise DamagedError(msg)
            yield record[:-4]
