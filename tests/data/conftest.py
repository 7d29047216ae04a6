import numpy as np
import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder of TFDS with a CIFAR-10 of 40 + 20 images and an ImageNet of 12 + 5."""
    pytest.importorskip("tensorflow_datasets")
    from tests.data import archives

    root = tmp_path_factory.mktemp("tfds")
    images = {
        "train": [(archives.photo(i, 32, 32, "PNG"), i % 10) for i in range(40)],
        "test": [(archives.photo(100 + i, 32, 32, "PNG"), i % 10) for i in range(20)],
    }
    (root / "cifar10").mkdir()
    archives.prepare_images(root / "cifar10", images)
    archives.prepare_imagenet(root, tmp_path_factory.mktemp("manual"))
    return root


@pytest.fixture
def bad_images(tmp_path):
    """A data set of 6 images: 2 is no image, 3 is cut off, 4 has another size."""
    pytest.importorskip("tensorflow_datasets")
    from tests.data import archives

    content = [archives.photo(i, 32, 32, "PNG") for i in range(6)]
    content[2] = b"\x89PNG\r\n\x1a\nnothing"
    content[3] = content[3][:200]
    content[4] = archives.photo(4, 31, 32, "PNG")
    rows = [(c, i % 2) for i, c in enumerate(content)]
    (tmp_path / "bad").mkdir()
    return archives.prepare_images(tmp_path / "bad", {"train": rows, "test": rows[:1]})


@pytest.fixture
def rng():
    return np.random.default_rng(0)
