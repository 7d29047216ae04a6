import logging
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow_datasets")

from ntk_train.data import BadRecordError, load_dataset
from ntk_train.data.images import PadCrop
from ntk_train.data.pipeline import Order, eval_batches, train_batches
from ntk_train.data.records import LABELS, TfdsSource
from tests.data import archives

CROP = PadCrop(size=32, pad=4)


def decoded(seed):
    import io

    return np.asarray(Image.open(io.BytesIO(archives.photo(seed, 32, 32, "PNG"))))


def test_images_and_labels_are_those_that_were_prepared(data_dir):
    dataset = load_dataset("cifar10", data_dir=data_dir, image_dtype="uint8")
    assert (len(dataset.train), len(dataset.test)) == (40, 20)
    np.testing.assert_array_equal(dataset.test.labels, np.arange(20) % 10)
    for index in (0, 7, 19):
        example = dataset.test[index]
        np.testing.assert_array_equal(example["image"], decoded(100 + index))
        assert example["label"] == index % 10


def test_normalisation_on_device_is_that_on_the_host(data_dir):
    import jax.numpy as jnp

    host = load_dataset("cifar10", data_dir=data_dir)
    device = load_dataset("cifar10", data_dir=data_dir, image_dtype="uint8")
    for index in (0, 5):
        image = host.train[index]["image"]
        assert image.dtype == np.float32
        got = device.inputs(jnp.asarray(device.train[index]["image"]))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, image, atol=1e-6)
        np.testing.assert_array_equal(host.inputs(image), image)
    mean = [0.4914, 0.4822, 0.4465]
    std = [0.2470, 0.2435, 0.2616]
    np.testing.assert_allclose(host.train[0]["image"], (decoded(0) / 255 - mean) / std, atol=1e-6)


def test_labels_are_kept_in_a_file_and_a_wrong_one_is_named(bad_images):
    source = TfdsSource(bad_images, "train", CROP)
    path = bad_images / LABELS.format("train")
    np.testing.assert_array_equal(np.load(path), source.labels)
    np.save(path, np.array([0, 1, 0, 1, 0, 7], np.int32))
    source = TfdsSource(bad_images, "train", CROP)
    with pytest.raises(BadRecordError, match="record 5: its label is 1, the file of labels has 7"):
        source[5]
    np.save(path, np.array([0, 1, 0, 1, 0, 10], np.int32))
    with pytest.raises(BadRecordError, match="record 5: label 10 is out of range, expected 0 to 9"):
        TfdsSource(bad_images, "train", CROP)
    np.save(path, np.zeros(5, np.int32))
    with pytest.raises(ValueError, match=r"has shape \(5,\), expected \(6,\)"):
        TfdsSource(bad_images, "train", CROP)


def test_labels_are_read_where_the_folder_is_read_only(bad_images, monkeypatch):
    def refuse(*args):
        raise PermissionError("read-only")

    monkeypatch.setattr(np, "save", refuse)
    assert TfdsSource(bad_images, "train", CROP).labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert not list(bad_images.glob("ntk_train_labels*"))


@pytest.mark.parametrize(
    ("index", "text"),
    [
        (2, "UnidentifiedImageError"),
        (3, r"OSError|SyntaxError"),
        (4, r"the image has shape \(32, 31, 3\), expected \(32, 32, 3\)"),
    ],
)
def test_a_bad_record_is_named(bad_images, index, text):
    source = TfdsSource(bad_images, "train", CROP)
    where = rf"bad/3.0.2, split 'train', record {index}: .*({text})"
    with pytest.raises(BadRecordError, match=where):
        source[index]
    with pytest.raises(BadRecordError, match=where):
        source.augmented(index, np.random.default_rng(0))


def test_bad_records_are_replaced_by_the_next_good_one_and_counted(bad_images, caplog):
    source = TfdsSource(bad_images, "train", CROP, on_bad_record="skip")
    with caplog.at_level(logging.WARNING):
        for index, replacement in ((2, 5), (3, 5), (1, 1)):
            got, expected = source[index], source[replacement]
            np.testing.assert_array_equal(got["image"], expected["image"])
            assert got["label"] == expected["label"]
            pair = (index, replacement)
            augmented = [source.augmented(i, np.random.default_rng(3)) for i in pair]
            np.testing.assert_array_equal(augmented[0]["image"], augmented[1]["image"])
        source.report_bad_records()
        source.report_bad_records()
    assert source.bad_records == {2, 3, 4}
    first, total = caplog.messages
    assert "record 2" in first
    assert "3 of 6 records are bad so far" in total
    assert "indices 2, 3, 4." in total


def test_skipped_records_do_not_count_in_an_evaluation(bad_images):
    source = TfdsSource(bad_images, "train", CROP, on_bad_record="skip")
    batches = list(eval_batches(source, batch_size=4, num_threads=0))
    weight = np.concatenate([batch["weight"] for batch in batches])
    assert weight.tolist() == [1, 1, 0, 0, 0, 1, 0, 0]


def test_errors_come_out_of_the_pipeline(bad_images):
    batches = train_batches(TfdsSource(bad_images, "train", CROP), batch_size=6, seed=0)
    with pytest.raises(BadRecordError, match=r"split 'train', record [234]:"):
        next(batches)


def test_only_damaged_records_are_an_error(tmp_path):
    rows = [(b"no image", 0)] * 3
    (tmp_path / "all").mkdir()
    folder = archives.prepare_images(tmp_path / "all", {"train": rows})
    source = TfdsSource(folder, "train", CROP, on_bad_record="skip")
    with pytest.raises(BadRecordError, match="none of the 3 records from index 1"):
        source[1]


def test_a_truncated_file_is_named(bad_images):
    (file,) = bad_images.glob("*train*array_record*")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    where = "bad/3.0.2, split 'train', record"
    with pytest.raises(BadRecordError, match=rf"{where}s 0 to 5: .*damaged"):
        TfdsSource(bad_images, "train", CROP)
    file.write_bytes(whole)
    TfdsSource(bad_images, "train", CROP)  # keeps the labels
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadRecordError, match=f"{where} 5: "):
        TfdsSource(bad_images, "train", CROP)[5]


def test_a_missing_and_an_empty_split_are_named(bad_images):
    with pytest.raises(ValueError, match=r"split 'validation' is missing; .* train \(6\), test"):
        TfdsSource(bad_images, "validation", CROP)
    with pytest.raises(ValueError, match=r"'test' has no examples of \[7\]"):
        TfdsSource(bad_images, "test", CROP, classes=[7])
    with pytest.raises(ValueError, match=r"on_bad_record='ignore'; expected 'raise' or 'skip'"):
        TfdsSource(bad_images, "train", CROP, on_bad_record="ignore")


def test_tensorflow_is_not_imported_for_reading(data_dir):
    program = f"""
import sys
from ntk_train.data import load_dataset, make_probe
from ntk_train.data.pipeline import Order, eval_batches, train_batches
for name in ("cifar2", "cifar10", "imagenet2012"):
    dataset = load_dataset(name, data_dir={str(data_dir)!r})
    next(train_batches(dataset.train, batch_size=4, seed=0))
    next(eval_batches(dataset.test, batch_size=4))
make_probe(dataset.train, size=4, seed=0)
print([name for name in sys.modules if name.split(".")[0] == "tensorflow"])
"""
    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("image_dtype", ["float32", "uint8"])
def test_batches_of_photos_are_their_examples_with_any_number_of_threads(data_dir, image_dtype):
    source = load_dataset(
        "imagenet2012", data_dir=data_dir, image_size=32, image_dtype=image_dtype
    ).train
    kept = []
    for threads in (0, 1, 3):
        batches = train_batches(source, batch_size=5, seed=2, num_threads=threads)
        kept.append([next(batches) for _ in range(6)])  # kept: none is written over
    order = Order(len(source), 2)
    for step in range(6):
        for row in range(5):
            epoch, index = order.at(5 * step + row)
            expected = source.augmented(index, np.random.default_rng((2, epoch, index)))
            for batches in kept:
                np.testing.assert_array_equal(batches[step]["image"][row], expected["image"])
                assert batches[step]["image"].dtype == image_dtype
                assert batches[step]["label"][row] == expected["label"]
    plain = next(eval_batches(source, batch_size=5))
    np.testing.assert_array_equal(plain["image"], [source[i]["image"] for i in range(5)])
