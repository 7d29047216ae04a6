"""A writer of TensorBoard's event files without TensorFlow and clu, on tensorboardX.

    writer = tensorboard_writer("runs/mine")
    hook = NTKHook(f, probe, every_steps=100, writer=writer)

It has the methods of clu's `MetricWriter` that the hook and the trainer call.
"""

import importlib.util
import math
import os
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from ntk_train.monitor.writers import TagWriter


class TensorBoardWriter(TagWriter):
    """Writes scalars, images, histograms, texts and hparams to one event file of its own.

    Args:
      logdir: the folder; made if it does not exist.

    Raises:
      ModuleNotFoundError: tensorboardX is not installed.
    """

    def __init__(self, logdir: str | os.PathLike[str]) -> None:
        if importlib.util.find_spec("tensorboardX") is None:
            msg = (
                "Event files without TensorFlow are written by tensorboardX, which is not "
                "installed: pip install 'ntk_train[tensorboard]'"
            )
            raise ModuleNotFoundError(msg, name="tensorboardX")
        import tensorboardX

        # Its file names differ by the second only, and it overwrites what is there.
        suffix = f".{uuid.uuid4().hex[:8]}"
        super().__init__(tensorboardX.SummaryWriter(os.fspath(logdir), filename_suffix=suffix))

    def write_summaries(
        self,
        step: int,
        values: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes tensors as they are, for a plugin that the metadata name."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.util.tensor_util import make_tensor_proto
        from tensorboardX.proto import summary_pb2

        for tag, value in values.items():
            summary = Summary()
            summary.value.add(
                tag=tag, tensor=make_tensor_proto(value), metadata=(metadata or {}).get(tag)
            )
            same = summary_pb2.Summary.FromString(summary.SerializeToString())
            self._writer.file_writer.add_summary(same, step)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes numbers; NaN and infinity too, of which tensorboardX's own method warns."""
        from tensorboardX.proto import summary_pb2

        values = [
            summary_pb2.Summary.Value(tag=tag, simple_value=float(value))
            for tag, value in scalars.items()
        ]
        self._writer.file_writer.add_summary(summary_pb2.Summary(value=values), step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the hyper-parameters of the run; what is no number, bool or text, as text."""
        from tensorboardX.summary import hparams as summaries

        # The second of three starts the session. Without the first, which would list the metrics,
        # TensorBoard takes all scalars for metrics.
        _, start, _ = summaries({key: _plain(value) for key, value in hparams.items()}, {})
        self._writer.file_writer.add_summary(start)

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()


def tensorboard_writer(logdir: str | os.PathLike[str]) -> TensorBoardWriter:
    """Makes a `TensorBoardWriter`.

    Args:
      logdir: the folder of the run; each writer makes an event file of its own in it.

    Raises:
      ModuleNotFoundError: tensorboardX is not installed.
    """
    return TensorBoardWriter(logdir)


def _plain(value: Any) -> bool | float | str:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, float, np.integer, np.floating)) and math.isfinite(value):
        return float(value)
    return value if isinstance(value, str) else str(value)
