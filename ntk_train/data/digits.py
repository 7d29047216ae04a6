"""Handwritten digits of 8 x 8 pixels, inside scikit-learn's wheel: real images without a download.

1797 images of ten classes, the test part of E. Alpaydin, C. Kaynak, *Optical Recognition of
Handwritten Digits*, UCI Machine Learning Repository, 1998.
"""

from collections.abc import Sequence

import numpy as np

from ntk_train.data.dataset import Dataset, standardized


def load_digits(
    *,
    classes: Sequence[int] | None = (4, 9),
    test_fraction: float = 0.3,
    seed: int = 0,
) -> Dataset:
    """Loads the digits, split at random with the same fraction of each class in the test part.

    Images are float32 [8, 8, 1], shifted and scaled by the mean and standard deviation of all
    pixels of the training part. Labels count the classes from 0 in the order given.

    Args:
      classes: the digits to tell apart, at least two; None for all ten.
      test_fraction: of each class, between 0 and 1.
      seed: of the split. The same seed gives the same split on every machine.

    Raises:
      ValueError: an argument is out of its range; the text names it.
      ModuleNotFoundError: scikit-learn is not installed.
    """
    classes = tuple(range(10)) if classes is None else tuple(classes)
    _check(classes, test_fraction)
    images, digits = _read()
    train, test = _split(digits, classes, test_fraction, seed)
    labels = np.zeros(len(digits), np.int32)
    for label, digit in enumerate(classes):
        labels[digits == digit] = label
    names = tuple(str(digit) for digit in classes)
    return standardized("digits", names, images, labels, train, test)


def _check(classes: tuple[int, ...], test_fraction: float) -> None:
    valid = all(digit in range(10) for digit in classes)
    if not valid or len(classes) < 2 or len(set(classes)) < len(classes):
        msg = (
            f"classes={classes!r}; digits takes at least two different digits from 0 to 9, "
            "(4, 9) for example, or None for all ten."
        )
        raise ValueError(msg)
    # Each class has at least 174 images, so that neither part of this range is empty.
    if not 0.01 <= test_fraction <= 0.99:
        msg = f"test_fraction={test_fraction!r}; expected a number from 0.01 to 0.99."
        raise ValueError(msg)


def _read() -> tuple[np.ndarray, np.ndarray]:
    """All images [1797, 8, 8] float64, 0 to 16, and digits [1797]."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        msg = (
            "The dataset 'digits' comes with scikit-learn: pip install scikit-learn, or "
            "pip install 'ntk_train[train]' for all that the trainer needs."
        )
        raise ModuleNotFoundError(msg, name=error.name) from error
    digits = datasets.load_digits()
    return digits.images, digits.target


def _split(
    digits: np.ndarray, classes: tuple[int, ...], test_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and the test part, each in the order of the file."""
    train, test = [], []
    for digit in classes:
        # A generator for each digit: its split does not depend on the other classes.
        order = np.random.default_rng([seed, digit]).permutation(np.flatnonzero(digits == digit))
        num_test = round(test_fraction * len(order))
        test.append(order[:num_test])
        train.append(order[num_test:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))
