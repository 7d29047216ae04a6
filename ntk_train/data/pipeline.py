"""Batches for training and for evaluation, through Grain. Needs the [train] extra.

The batch of a step depends on the seed and the step alone, so that a run which resumes at step k
sees what an uninterrupted run would have seen, without any saved state.
"""

import math
from collections.abc import Iterator
from typing import TypeAlias

import grain
import numpy as np

from ntk_train.data.dataset import Source

Batch: TypeAlias = dict[str, np.ndarray]
"""{"image": [N, height, width, channels] float32, "label": [N] int32}, more keys for evaluation."""


def train_batches(
    source: Source, *, batch_size: int, seed: int, start_step: int = 0
) -> Iterator[Batch]:
    """Batches without end; every epoch is shuffled anew, and batches may span two epochs.

    Args:
      source: the training part.
      batch_size: N, at least 1; it may exceed the number of examples.
      seed: of the shuffling.
      start_step: the index of the first batch to return.

    Raises:
      ValueError: `batch_size` or `start_step` is out of range, or the source is empty.
    """
    _check(source, batch_size)
    if start_step < 0:
        msg = f"start_step={start_step}; expected 0 or more."
        raise ValueError(msg)
    batches = grain.MapDataset.source(source).seed(seed).shuffle().repeat().batch(batch_size)
    # Examples in memory take microseconds; one thread keeps a few batches ahead of the device.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(batches[start_step:].to_iter_dataset(options))


def eval_batches(source: Source, *, batch_size: int) -> Iterator[Batch]:
    """All examples once, in order, in batches of one shape.

    The last batch is filled up with copies of the first example. The key "weight", [N] float32, is
    1 for examples that count and 0 for the filling.

    Raises:
      ValueError: `batch_size` is out of range, or the source is empty.
    """
    _check(source, batch_size)
    for batch in range(math.ceil(len(source) / batch_size)):
        indices = np.arange(batch * batch_size, (batch + 1) * batch_size)
        weight = indices < len(source)
        examples = [source[int(index)] for index in np.where(weight, indices, 0)]
        yield {
            "image": np.stack([example["image"] for example in examples]),
            "label": np.stack([example["label"] for example in examples]),
            "weight": weight.astype(np.float32),
        }


def _check(source: Source, batch_size: int) -> None:
    if len(source) == 0:
        msg = "source has no examples."
        raise ValueError(msg)
    if batch_size < 1:
        msg = f"batch_size={batch_size}; expected 1 or more."
        raise ValueError(msg)
