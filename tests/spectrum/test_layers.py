"""Parts by layer against Jacobians of each layer's own parameters."""

import math

import numpy as np
import pytest

from ntk_train import KernelInputError, ntk
from ntk_train.spectrum import (
    debiased_kernel_target_alignment,
    kernel_target_alignment,
    layer_diagnostics,
)
from tests import oracle
from tests.spectrum import case

PARAMS, X = case.make(6, 2)
LABELS = np.array([0, 1, 1, 0, 1, 0])


def test_layers_are_those_of_the_jacobians():
    jacobian = oracle.jacobian(case.f, PARAMS, X).reshape(12, -1)
    # Leaves in the order of the tree: hidden bias and kernel, then out.
    parts = {"hidden": jacobian[:, :96], "out": jacobian[:, 96:]}
    found = layer_diagnostics(ntk(case.f, PARAMS, X, per_layer=True), LABELS)
    assert found.keys() == parts.keys()
    total = np.sum(jacobian**2)
    for name, part in parts.items():
        layer = found[name]
        assert layer.trace_share == pytest.approx(np.sum(part**2) / total)
        assert layer.lambda_max == pytest.approx(np.linalg.svd(part)[1][0] ** 2)
        kernel = (part @ part.T).reshape(6, 2, 6, 2)
        assert layer.alignment == pytest.approx(kernel_target_alignment(kernel, LABELS))
        assert layer.centred_alignment == pytest.approx(
            kernel_target_alignment(kernel, LABELS, centred=True)
        )
        assert layer.debiased_alignment == pytest.approx(
            debiased_kernel_target_alignment(kernel, LABELS)
        )
    assert sum(layer.trace_share for layer in found.values()) == pytest.approx(1)


def test_without_labels_there_is_no_alignment():
    (layer,) = layer_diagnostics({"w": np.eye(2)}).values()
    assert layer.scalars() == {"trace_share": 1.0, "lambda_max": pytest.approx(1)}


def test_kernels_of_zeros_and_what_does_not_fit():
    layers = layer_diagnostics({"a": np.zeros((2, 2)), "b": np.zeros((2, 2))})
    assert all(math.isnan(layer.trace_share) for layer in layers.values())
    for kernels in ({}, {"a": np.eye(2), "b": np.eye(3)}):
        with pytest.raises(KernelInputError, match="one or more kernels of one shape"):
            layer_diagnostics(kernels)
