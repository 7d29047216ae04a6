import numpy as np
import pytest

from ntk_train.data import ArraySource, load_dataset, make_probe

SOURCE = load_dataset("digits", classes=(0, 1, 2)).train


@pytest.mark.parametrize("size", [3, 15, 16, 17])
def test_classes_are_balanced_to_within_one(size):
    probe = make_probe(SOURCE, size=size, seed=0)
    counts = np.bincount(probe.labels, minlength=3)
    assert counts.sum() == size == len(set(probe.indices.tolist()))
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(probe.images, SOURCE.images[probe.indices])
    np.testing.assert_array_equal(probe.labels, SOURCE.labels[probe.indices])


def test_checksum_tells_probes_apart():
    first, again, other = (make_probe(SOURCE, size=9, seed=seed) for seed in (1, 1, 2))
    assert first.checksum == again.checksum
    assert len(first.checksum) == 16
    assert first.checksum != other.checksum
    relabelled = make_probe(ArraySource(SOURCE.images, 2 - SOURCE.labels), size=9, seed=1)
    assert relabelled.checksum != first.checksum


def test_too_many_of_a_class_says_how_many_there_are():
    source = ArraySource(np.zeros((5, 1, 1, 1), np.float32), np.array([0, 0, 0, 1, 1], np.int32))
    assert len(make_probe(source, size=4, seed=0).labels) == 4
    with pytest.raises(ValueError, match=r"3 images of class 1, which has 2.*at most 4 images"):
        make_probe(source, size=6, seed=0)


def test_too_small_for_the_classes():
    with pytest.raises(ValueError, match="size=2; a balanced probe of 3 classes"):
        make_probe(SOURCE, size=2, seed=0)
