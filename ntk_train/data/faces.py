"""Face or not, 25 x 25 pixels, inside scikit-image's wheel: real images without a download.

100 faces of *Labeled Faces in the Wild* (G. B. Huang et al., University of Massachusetts, Technical
Report 07-49, 2007) and 100 parts of the same photos without a face.
"""

import numpy as np

from ntk_train.data.dataset import Dataset, standardized

_PER_CLASS = 100


def load_lfw_faces(*, test_fraction: float = 0.3, seed: int = 0) -> Dataset:
    """Loads the faces, split at random with the same number of each class in the test part.

    Images are float32 [25, 25, 1], shifted and scaled by the mean and standard deviation of all
    pixels of the training part. Label 1 is a face.

    Args:
      test_fraction: of each class, from 0.01 to 0.99.
      seed: of the split. The same seed gives the same split on every machine.

    Raises:
      ValueError: `test_fraction` is out of its range.
      ModuleNotFoundError: scikit-image is not installed.
    """
    if not 0.01 <= test_fraction <= 0.99:
        msg = f"test_fraction={test_fraction!r}; expected a number from 0.01 to 0.99."
        raise ValueError(msg)
    images = _read()  # [200, 25, 25]
    labels = np.repeat(np.array([1, 0], np.int32), _PER_CLASS)  # faces come first in the file
    rng = np.random.default_rng(seed)
    num_test = round(test_fraction * _PER_CLASS)
    order = [rng.permutation(_PER_CLASS) + first for first in (0, _PER_CLASS)]
    test = np.sort(np.concatenate([indices[:num_test] for indices in order]))
    train = np.sort(np.concatenate([indices[num_test:] for indices in order]))
    return standardized("lfw_faces", ("no face", "face"), images, labels, train, test)


def _read() -> np.ndarray:
    """All images [200, 25, 25] float64, 0 to 1."""
    try:
        from skimage import data
    except ModuleNotFoundError as error:
        msg = (
            "The dataset 'lfw_faces' comes with scikit-image: pip install scikit-image, or "
            "pip install 'ntk_train[train]' for all that the trainer needs."
        )
        raise ModuleNotFoundError(msg, name=error.name) from error
    return np.asarray(data.lfw_subset(), np.float64)
