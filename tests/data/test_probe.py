import numpy as np
import pytest

from ntk_train.data import (
    ArraySource,
    ProbeChangedError,
    check_probes,
    largest_probe,
    load_dataset,
    load_probes,
    make_probe,
    save_probes,
)

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
    with pytest.raises(ValueError, match="size=0; a probe has at least one image"):
        make_probe(SOURCE, size=0, seed=0)


def test_fewer_images_than_classes_are_of_different_classes():
    drawn = {tuple(make_probe(SOURCE, size=2, seed=seed).labels) for seed in range(20)}
    assert drawn == {(0, 1), (0, 2), (1, 2)}


def test_probes_come_back_from_their_file(tmp_path):
    dataset = load_dataset("digits", classes=(0, 1, 2))
    sources = {"train": dataset.train, "test": dataset.test}
    probes = {name: make_probe(source, size=9, seed=4) for name, source in sources.items()}
    save_probes(probes, tmp_path / "probe.json")
    check_probes(probes, tmp_path / "probe.json")
    loaded = load_probes(tmp_path / "probe.json", sources)
    for name, probe in probes.items():
        np.testing.assert_array_equal(loaded[name].images, probe.images)
        np.testing.assert_array_equal(loaded[name].indices, probe.indices)
        assert loaded[name].labels.dtype == probe.labels.dtype
        assert loaded[name].checksum == probe.checksum


def test_a_changed_probe_is_told(tmp_path):
    path = tmp_path / "probe.json"
    save_probes({"train": make_probe(SOURCE, size=9, seed=1)}, path)
    other = make_probe(SOURCE, size=9, seed=2)
    with pytest.raises(ProbeChangedError, match=r"train probe .*probe.json: its indices differ"):
        check_probes({"train": other}, path)
    brighter = ArraySource(SOURCE.images + 1, SOURCE.labels)
    for check in (
        lambda: check_probes({"train": make_probe(brighter, size=9, seed=1)}, path),
        lambda: load_probes(path, {"train": brighter}),
    ):
        with pytest.raises(ProbeChangedError, match="its checksum of images at the same indices"):
            check()
    with pytest.raises(ProbeChangedError, match=r"has the probes \['train'\], this run has"):
        check_probes({"test": other}, path)
    few = ArraySource(SOURCE.images[:3], SOURCE.labels[:3])
    with pytest.raises(ProbeChangedError, match="but its source only 3 examples"):
        load_probes(path, {"train": few})
    with pytest.raises(ValueError, match="has a probe 'train'; sources has"):
        load_probes(path, {"test": SOURCE})


@pytest.mark.parametrize("text", ["{", "[]", '{"train": {"indices": []}}', '{"train": 3}'])
def test_a_damaged_file_of_probes_is_named(text, tmp_path):
    (tmp_path / "probe.json").write_text(text)
    with pytest.raises(ValueError, match=r"probe.json is not a file of probes"):
        check_probes({"train": make_probe(SOURCE, size=9, seed=1)}, tmp_path / "probe.json")


def test_largest_probe_can_be_drawn():
    labels = np.array([0, 0, 0, 2, 2], np.int32)
    source = ArraySource(np.zeros((5, 1, 1, 1), np.float32), labels)
    assert largest_probe(source) == 4
    assert make_probe(source, size=4, seed=0).labels.tolist() == [0, 0, 2, 2]


def test_a_probe_of_photos_is_not_augmented(data_dir):
    source = load_dataset("imagenet2012", data_dir=data_dir, image_size=32).train
    first, second = (make_probe(source, size=4, seed=0) for _ in range(2))
    assert first.checksum == second.checksum
    for image, index in zip(first.images, first.indices):
        np.testing.assert_array_equal(image, source[int(index)]["image"])
