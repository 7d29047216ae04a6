import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")

from ntk_train.data import load_dataset


def test_a_pair_has_its_images_with_labels_0_and_1(data_dir):
    whole = load_dataset("cifar10", data_dir=data_dir)
    pair = load_dataset("cifar2", data_dir=data_dir, classes=("dog", "cat"))
    assert pair.class_names == ("dog", "cat")
    assert (len(pair.train), len(pair.test)) == (8, 4)
    indices = np.flatnonzero(np.isin(whole.train.labels, (3, 5)))
    for i, index in enumerate(indices):
        example, expected = pair.train[i], whole.train[index]
        np.testing.assert_array_equal(example["image"], expected["image"])
        assert example["label"] == pair.train.labels[i] == {5: 0, 3: 1}[int(expected["label"])]
    default = load_dataset("cifar2", data_dir=data_dir)
    assert default.class_names == ("airplane", "automobile")


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        (("cat", "dogs"), "Unknown class of CIFAR-10 'dogs'.*Did you mean 'dog'"),
        (("cat", "cat"), "two different classes"),
        (("cat",), "two different classes"),
        ("cat", "two different classes"),
    ],
)
def test_a_bad_pair_is_named(classes, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        load_dataset("cifar2", data_dir=tmp_path, classes=classes)


def test_a_bad_dtype_is_named(tmp_path):
    with pytest.raises(ValueError, match="image_dtype='int8'; expected 'float32' or 'uint8'"):
        load_dataset("cifar10", data_dir=tmp_path, image_dtype="int8")
