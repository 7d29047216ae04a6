import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")

from ntk_train.data import load_dataset
from ntk_train.data.pipeline import train_batches
from tests.data.archives import SYNSETS


def test_images_of_both_splits_are_read(data_dir):
    dataset = load_dataset("imagenet2012", data_dir=data_dir, image_size=32, image_dtype="uint8")
    assert dataset.num_classes == 1000
    assert (len(dataset.train), len(dataset.test)) == (12, 5)
    labels = sorted(dataset.class_names.index(synset) for synset in SYNSETS)
    assert np.unique(dataset.train.labels).tolist() == labels
    assert np.bincount(dataset.train.labels)[labels].tolist() == [3, 3, 3, 3]
    for source in (dataset.train, dataset.test):
        assert source[4]["image"].shape == (32, 32, 3)
        assert source[4]["image"].dtype == np.uint8
    assert load_dataset("imagenet2012", data_dir=data_dir).image_shape == (224, 224, 3)


def test_crops_differ_between_epochs_and_not_between_runs(data_dir):
    source = load_dataset("imagenet2012", data_dir=data_dir, image_size=16).train

    def epochs(start):
        batches = train_batches(source, batch_size=12, seed=1, start_step=start, num_threads=2)
        for _ in range(start, 2):
            batch = next(batches)
            yield sorted(image.tobytes() for image in batch["image"])

    first, second = epochs(0)
    assert not set(first) & set(second)
    assert list(epochs(1)) == [second]


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="image_size=0; expected 1 or more"):
        load_dataset("imagenet2012", data_dir=tmp_path, image_size=0)
    with pytest.raises(ValueError, match="split='test'; expected 'holdout' or 'official'"):
        load_dataset("mini_imagenet", data_dir=tmp_path, split="test")
