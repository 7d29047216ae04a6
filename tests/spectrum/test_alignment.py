"""Alignments against the formulas with explicit centring matrices, and their invariances."""

import math

import numpy as np
import pytest

from ntk_train import KernelInputError, NonFiniteKernelError
from ntk_train.spectrum import (
    debiased_kernel_target_alignment,
    kernel_target_alignment,
    top_space_alignment,
)
from tests import oracle
from tests.spectrum import case

RNG = np.random.default_rng(0)
CLASSES = np.array([0, 2, 1, 1, 0, 2, 2])


def frobenius_cosine(a, b):
    return np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))


def gram(n=7, rank=9):
    rows = RNG.normal(size=(n, rank)) + 1
    return rows @ rows.T


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("labels", [CLASSES, RNG.normal(size=7), RNG.normal(size=(7, 2))])
def test_traced_kernel_is_the_definition(labels, centred):
    kernel = gram()
    targets = np.eye(3)[labels] if labels.dtype == int else labels.reshape(7, -1)
    h = np.eye(7) - centred / 7
    expected = frobenius_cosine(h @ kernel @ h, h @ targets @ targets.T @ h)
    found = kernel_target_alignment(kernel, labels, centred=centred)
    assert found == pytest.approx(expected, rel=1e-12)
    assert 0 <= found <= 1


@pytest.mark.parametrize("centred", [False, True])
def test_full_kernel_is_the_definition(centred):
    params, x = case.make(7, 3)
    j = oracle.jacobian(case.f, params, x)
    h, targets = np.eye(7) - centred / 7, np.eye(3)[CLASSES]
    traced = sum(j[:, o] @ j[:, o].T for o in range(3))
    expected = frobenius_cosine(h @ traced @ h, h @ targets @ targets.T @ h)
    full = case.matrix(params, x).reshape(7, 3, 7, 3)
    assert kernel_target_alignment(full, CLASSES, centred=centred) == pytest.approx(expected)


def test_independent_heads_with_the_kernel_of_the_labels_are_aligned():
    targets = np.eye(3)[CLASSES]
    heads = np.kron(targets @ targets.T, np.eye(3)).reshape(7, 3, 7, 3)  # a third, as one vector
    assert kernel_target_alignment(heads, CLASSES) == pytest.approx(1)
    assert kernel_target_alignment(heads, CLASSES, centred=True) == pytest.approx(1)
    assert debiased_kernel_target_alignment(1e300 * heads, CLASSES) == pytest.approx(1)


def hsic_of_song(k, m):
    """Song et al., equation 5, term by term."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    ones = np.ones(n)
    last = ones @ k @ ones * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + last - 2 / (n - 2) * ones @ k @ m @ ones) / (n * (n - 3))


@pytest.mark.parametrize("labels", [CLASSES, RNG.normal(size=(7, 2))], ids=["classes", "targets"])
def test_debiased_alignment_is_the_ratio_of_unbiased_estimates(labels):
    kernel = gram()
    targets = np.eye(3)[labels] if labels.dtype == int else labels
    gram_of_targets = targets @ targets.T
    expected = hsic_of_song(kernel, gram_of_targets) / np.sqrt(
        hsic_of_song(kernel, kernel) * hsic_of_song(gram_of_targets, gram_of_targets)
    )
    found = debiased_kernel_target_alignment(kernel, labels)
    assert found == pytest.approx(expected, rel=1e-10)
    shifted = debiased_kernel_target_alignment(1e250 * (kernel + 5.0), labels)
    assert shifted == pytest.approx(expected, rel=1e-9)


def test_by_chance_the_debiased_alignment_is_nothing_and_the_centred_is_not():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(64, 40)) * np.arange(1, 41) ** -0.5 + 1
    kernel, labels = rows @ rows.T, np.arange(64) % 10
    orders = [rng.permutation(labels) for _ in range(200)]
    centred = np.mean([kernel_target_alignment(kernel, order, centred=True) for order in orders])
    debiased = np.mean([debiased_kernel_target_alignment(kernel, order) for order in orders])
    assert 0.13 < centred < 0.3
    assert abs(debiased) < 0.01


def test_what_has_no_debiased_alignment_is_nan():
    for kernel, labels in (
        (np.eye(3), np.array([0, 1, 2])),
        (np.zeros((5, 5)), np.array([0, 1, 0, 1, 1])),
        (gram(5), np.ones(5, int)),
        (np.full((5, 5), 0.1), np.array([0, 1, 0, 1, 1])),
    ):
        assert math.isnan(debiased_kernel_target_alignment(kernel, labels))


@pytest.mark.parametrize("scale", [1e-250, 1e-3, 1e250])
def test_scale_of_either_side_and_order_do_not_matter(scale):
    kernel, labels = gram(), RNG.normal(size=7)
    order = RNG.permutation(7)
    for centred in (False, True):
        one = kernel_target_alignment(kernel, labels, centred=centred)
        other = kernel_target_alignment(
            scale * kernel[order][:, order], labels[order] / scale, centred=centred
        )
        assert other == pytest.approx(one, rel=1e-12)


def test_centred_alignment_does_not_see_constants():
    kernel, labels = gram(), RNG.normal(size=7)
    shifted = kernel_target_alignment(kernel + 50.0, labels + 3.0, centred=True)
    assert shifted == pytest.approx(kernel_target_alignment(kernel, labels, centred=True))


def test_the_labels_own_kernel_is_aligned_and_an_orthogonal_one_is_not():
    y = np.array([1.0, -1, 1, -1])
    assert kernel_target_alignment(np.outer(y, y), y) == pytest.approx(1)
    z = np.array([1.0, 1, -1, -1])
    assert kernel_target_alignment(np.outer(z, z), y) == pytest.approx(0)
    assert kernel_target_alignment(np.outer(y, y), np.array([1, 0, 1, 0]), centred=True) == (
        pytest.approx(1)
    )


@pytest.mark.parametrize("centred", [False, True])
def test_a_column_of_integers_are_classes_of_any_size(centred):
    kernel, targets = gram(), np.eye(3)[CLASSES]
    h = np.eye(7) - centred / 7
    expected = frobenius_cosine(h @ kernel @ h, h @ targets @ targets.T @ h)
    for labels in (CLASSES[:, None], CLASSES[:, None].astype(np.uint8), CLASSES * 10**9):
        found = kernel_target_alignment(kernel, labels, centred=centred)
        assert found == pytest.approx(expected, rel=1e-12)
    as_numbers = kernel_target_alignment(kernel, 1.0 * CLASSES[:, None], centred=centred)
    assert as_numbers != pytest.approx(expected, rel=0.01)


def test_classes_of_one_full_output_are_signs():
    kernel = gram(4).reshape(4, 1, 4, 1)
    classes = np.array([0, 1, 1, 0])
    assert kernel_target_alignment(kernel, classes) == pytest.approx(
        kernel_target_alignment(kernel, np.array([-1.0, 1, 1, -1]))
    )


def test_what_has_no_alignment_is_nan():
    labels = np.array([0.0, 1, 2])
    assert math.isnan(kernel_target_alignment(np.zeros((3, 3)), labels))
    assert math.isnan(kernel_target_alignment(np.eye(3), np.zeros(3)))
    assert math.isnan(kernel_target_alignment(np.eye(3), np.full(3, 0.1), centred=True))
    assert math.isnan(kernel_target_alignment(np.full((3, 3), 0.1), labels, centred=True))
    assert math.isnan(kernel_target_alignment([[2.0]], np.array([1.0]), centred=True))
    assert kernel_target_alignment([[2.0]], np.array([1.0])) == pytest.approx(1)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_top_space_alignment_is_the_projected_share(k):
    kernel, targets = gram(), RNG.normal(size=(7, 2))
    u = np.linalg.svd(kernel)[0][:, :k]
    expected = np.sum((u @ u.T @ targets) ** 2) / np.sum(targets**2)
    assert top_space_alignment(kernel, targets, k) == pytest.approx(expected, rel=1e-10)
    shifted = targets + 5.0
    centred = top_space_alignment(kernel, shifted, k, centred=True)
    mean_free = targets - targets.mean(axis=0)
    assert centred == pytest.approx(np.sum((u.T @ mean_free) ** 2) / np.sum(mean_free**2))
    if k == 7:
        assert expected == pytest.approx(1)


def test_top_space_of_a_full_kernel():
    params, x = case.make(7, 3)
    matrix = case.matrix(params, x)
    u = np.linalg.svd(matrix)[0][:, :2]
    expected = np.sum((u.T @ np.eye(3)[CLASSES].ravel()) ** 2) / 7
    found = top_space_alignment(matrix.reshape(7, 3, 7, 3), CLASSES, 2)
    assert found == pytest.approx(expected, rel=1e-8)
    by_default = top_space_alignment(matrix.reshape(7, 3, 7, 3), CLASSES)
    u = np.linalg.svd(matrix)[0][:, :3]
    expected = np.sum((u.T @ np.eye(3)[CLASSES].ravel()) ** 2) / 7
    assert by_default == pytest.approx(expected, rel=1e-8)
    double = np.diag([2.0, 2.0, 1.0])
    assert math.isnan(top_space_alignment(double, np.ones(3)))
    assert top_space_alignment(double, np.ones(3), 2) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("kernel", "labels", "match"),
    [
        (np.eye(3), np.zeros(2), r"\[2\]; the kernel is of 3 examples"),
        (np.eye(3), np.array([0, -1, 1]), "classes -1 to 1"),
        (np.eye(3), np.array([[0], [-1], [1]]), "classes -1 to 1; expected from 0"),
        (np.eye(3), np.array([0, np.nan, 1]), "NaN"),
        (np.eye(6).reshape(3, 2, 3, 2), np.array([0, 1, 2]), "classes 0 to 2; expected 0 to 1"),
        (np.eye(6).reshape(3, 2, 3, 2), np.zeros((3, 3)), "3 targets per example"),
    ],
)
def test_labels_that_do_not_fit(kernel, labels, match):
    with pytest.raises(KernelInputError, match=match):
        kernel_target_alignment(kernel, labels)


def test_nan_kernel_and_k_out_of_range():
    with pytest.raises(NonFiniteKernelError):
        kernel_target_alignment(np.full((2, 2), np.nan), np.ones(2))
    for k in (0, 3):
        with pytest.raises(KernelInputError, match="2 eigenvectors"):
            top_space_alignment(np.eye(2), np.ones(2), k)
