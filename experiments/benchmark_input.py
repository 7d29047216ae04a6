"""Images per second of the input pipeline, beside tf.data: random resized crops of photos.

    python -m experiments.benchmark_input

Made-up JPEGs of ImageNet's mean size (500 x 375, about 75 kB) are prepared by TFDS, as ArrayRecord
for `ntk_train.data` and as TFRecord for tf.data. Each pipeline reads records, decodes, takes random
resized crops of 224 x 224, flips, normalises to float32 and batches, with 2 threads; in turns, so
that what else the machine does meets all of them. tf.data comes in two forms: the whole image is
decoded and then cropped, or only the crop is (`decode_and_crop_jpeg`). Both interpolate linearly.
One more row is ours in uint8, with which `--config=imagenet` trains: the device normalises.

Hardware and run time: 2 CPU cores, 2 minutes. Result: `results/benchmark_input.csv`, the median
and the extremes over the rounds, and the load of the machine, which others may share. Expected:
about 1.1 times the images per second of tf.data in either form, at most 1.2 and 1.4 times. With
more than two other processes at work threads of Python wait for each other, and it is less than 1.
"""

import gc
import logging
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from experiments import record
from experiments.photos import photo, prepare
from ntk_train.data.images import ResizedCrop
from ntk_train.data.normalization import IMAGENET, Normalization
from ntk_train.data.pipeline import train_batches
from ntk_train.data.records import TfdsSource

PHOTOS, SIZE, BATCH, THREADS = 256, 224, 64, 2
ROUNDS, WARM_UP, TIMED = 12, 4, 8  # rounds; batches
PAUSE = 0.3  # seconds


def ours(folder: pathlib.Path, normalization: Normalization | None) -> Iterator[Any]:
    """Batches of `ntk_train.data`, float32, or uint8 without a normalisation."""
    source = TfdsSource(folder, "train", ResizedCrop(SIZE), normalization=normalization)
    return train_batches(source, batch_size=BATCH, seed=0, num_threads=THREADS)


def tf_data(folder: pathlib.Path, *, fused: bool) -> Iterator[Any]:
    """Batches of tf.data; `fused` decodes the crop alone."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    mean, std = (tf.constant(numbers) * 255 for numbers in (IMAGENET.mean, IMAGENET.std))

    def example(record: Any) -> Any:
        encoded = record["image"]
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(encoded),
            tf.zeros((1, 0, 4)),
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        if fused:
            window = tf.concat([begin[:2], size[:2]], 0)
            image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
        else:
            image = tf.slice(tf.image.decode_jpeg(encoded, channels=3), begin, size)
        image = tf.image.random_flip_left_right(tf.image.resize(image, (SIZE, SIZE)))
        return {"image": (image - mean) / std, "label": record["label"]}

    builder = tfds.builder_from_directory(str(folder))
    dataset = builder.as_dataset(
        split="train", decoders={"image": tfds.decode.SkipDecoding()}, shuffle_files=True
    )
    dataset = dataset.repeat().shuffle(PHOTOS).map(example, num_parallel_calls=THREADS)
    options = tf.data.Options()
    options.threading.private_threadpool_size = THREADS
    dataset = dataset.batch(BATCH).prefetch(4).with_options(options)
    return iter(dataset.as_numpy_iterator())


def measure(batches: Iterator[Any]) -> tuple[float, float]:
    """Images per second, and milliseconds of CPU per image, after a warm-up."""
    for _ in range(WARM_UP):
        next(batches)
    start, start_cpu = time.perf_counter(), time.process_time()
    for _ in range(TIMED):
        batch = next(batches)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    assert batch["image"].shape == (BATCH, SIZE, SIZE, 3), batch["image"].shape
    del batches, batch  # its threads stop reading ahead, before the next one is timed
    gc.collect()
    time.sleep(PAUSE)
    return TIMED * BATCH / seconds, 1000 * cpu / (TIMED * BATCH)


def main() -> None:
    """Times the pipelines in turns and writes the table."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.ERROR)
    photos = [photo(seed) for seed in range(PHOTOS)]
    kilobytes = sum(map(len, photos)) / len(photos) / 1000
    with tempfile.TemporaryDirectory() as folder:
        array_record = prepare(photos, folder, "array_record")
        tfrecord = prepare(photos, folder, "tfrecord")
        pipelines: dict[str, Callable[[], Iterator[Any]]] = {
            "ntk_train": lambda: ours(array_record, IMAGENET),
            "ntk_train, uint8": lambda: ours(array_record, None),
            "tf.data, decode and crop": lambda: tf_data(tfrecord, fused=False),
            "tf.data, decode the crop": lambda: tf_data(tfrecord, fused=True),
        }
        rates: dict[str, list[float]] = {name: [] for name in pipelines}
        costs: dict[str, list[float]] = {name: [] for name in pipelines}
        for _ in range(ROUNDS):
            for name, make in pipelines.items():
                rate, cost = measure(make())
                rates[name].append(rate)
                costs[name].append(cost)
                print(f"{name:28} {rate:8.1f} images/s {cost:6.2f} ms CPU", flush=True)
    load = os.getloadavg()[0]  # above THREADS: others were at work on the machine
    rows = [
        {
            "pipeline": name,
            "images_per_second": f"{statistics.median(of):.1f}",
            "lowest": f"{min(of):.1f}",
            "highest": f"{max(of):.1f}",
            # Of the same round, so that a busy moment weighs on both.
            "ntk_train_to_this": f"{_ratio(rates['ntk_train'], of):.2f}",
            "cpu_ms_per_image": f"{statistics.median(costs[name]):.2f}",
            "load": f"{load:.1f}",
            "threads": THREADS,
            "jpeg_kilobytes": f"{kilobytes:.0f}",
        }
        for name, of in rates.items()
    ]
    record.merge_table("benchmark_input", rows, key=["pipeline"])
    for row in rows:
        print(row)


def _ratio(first: list[float], second: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


if __name__ == "__main__":
    main()
