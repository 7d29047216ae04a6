import numpy as np
import pytest

from ntk_train.data import load_dataset


def test_images_are_standardised_and_labels_count_from_zero():
    dataset = load_dataset("digits", classes=(9, 4), test_fraction=0.25)
    images, labels = dataset.train.images, dataset.train.labels
    assert images.shape[1:] == dataset.image_shape == (8, 8, 1)
    assert images.dtype == np.float32
    assert labels.dtype == np.int32
    assert dataset.class_names == ("9", "4")
    assert dataset.num_classes == 2
    assert set(labels) == set(dataset.test.labels) == {0, 1}
    assert abs(images.mean()) < 1e-5
    assert abs(images.std() - 1) < 1e-5
    example = dataset.test[3]
    np.testing.assert_array_equal(example["image"], dataset.test.images[3])
    assert example["label"] == dataset.test.labels[3]


def test_split_is_stratified_disjoint_and_complete():
    dataset = load_dataset("digits", classes=None, test_fraction=0.3)
    assert len(dataset.train) + len(dataset.test) == 1797
    counts = [np.bincount(part.labels) for part in (dataset.train, dataset.test)]
    np.testing.assert_allclose(counts[1] / (counts[0] + counts[1]), 0.3, atol=0.005)
    # No two digits are the same image up to rounding, so that the parts can be compared by it.
    train = {image.tobytes() for image in dataset.train.images}
    assert not train & {image.tobytes() for image in dataset.test.images}


def test_split_depends_on_its_seed_alone():
    first, again, other = (load_dataset("digits", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.test.images, again.test.images)
    assert not np.array_equal(first.test.labels, other.test.labels)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"classes": (3, 12)}, r"classes=\(3, 12\)"),
        ({"classes": (3,)}, "at least two"),
        ({"classes": (3, 3)}, "different"),
        ({"test_fraction": 1.0}, "test_fraction=1.0"),
    ],
)
def test_bad_arguments_are_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        load_dataset("digits", **arguments)


def test_unknown_dataset_lists_names():
    with pytest.raises(ValueError, match=r"Unknown dataset 'digit'.*Did you mean 'digits'"):
        load_dataset("digit")
