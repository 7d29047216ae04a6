import numpy as np
import pytest

pytest.importorskip("skimage")

from ntk_train.data import load_dataset


def test_split_is_balanced_disjoint_and_standardised():
    dataset = load_dataset("lfw_faces", test_fraction=0.25, seed=2)
    assert dataset.image_shape == (25, 25, 1) == dataset.train.images.shape[1:]
    assert np.bincount(dataset.train.labels).tolist() == [75, 75]
    assert np.bincount(dataset.test.labels).tolist() == [25, 25]
    assert abs(dataset.train.images.mean()) < 1e-4
    assert abs(dataset.train.images.std() - 1) < 1e-4
    train = {image.tobytes() for image in dataset.train.images}
    assert not train & {image.tobytes() for image in dataset.test.images}
    other = load_dataset("lfw_faces", test_fraction=0.25, seed=3)
    assert not np.array_equal(other.test.images, dataset.test.images)


def test_label_1_is_a_face():
    # Faces look alike: they vary less around their mean than other parts of photos.
    train = load_dataset("lfw_faces").train
    spread = [train.images[train.labels == label].std(axis=0).mean() for label in (0, 1)]
    assert spread[1] < 0.9 * spread[0]


def test_a_bad_fraction_is_named():
    with pytest.raises(ValueError, match=r"test_fraction=1.5"):
        load_dataset("lfw_faces", test_fraction=1.5)
