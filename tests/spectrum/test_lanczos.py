"""The largest eigenvalues by Lanczos against dense ones, above all where the method breaks down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import KernelInputError, KernelOperator, NonFiniteKernelError
from ntk_train.spectrum import MatrixOperator, top_eigenvalues
from tests.spectrum import case

SPECTRA = {
    "rank 3": [5.0, 2.0, 1.0],
    "multiple": [5.0, 5.0, 2.0, 2.0, 2.0, 1.0],
    "equal": np.ones(60),
    "power law": np.arange(1, 61.0) ** -2,
    "exponential": np.exp(-np.arange(60.0)),
    "one": [7.0],
}


def operator_with(eigenvalues, dtype=jnp.float64, n=60):
    padded = np.pad(np.asarray(eigenvalues, float), (0, n - len(eigenvalues)))
    return MatrixOperator(jnp.asarray(case.kernel_with(padded), dtype))


@pytest.mark.parametrize(
    ("spectrum", "dtype"),
    [
        *((spectrum, jnp.float64) for spectrum in SPECTRA),
        ("rank 3", jnp.float32),
        ("power law", jnp.float32),
        *(
            pytest.param(name, jnp.float32, marks=pytest.mark.heavy)
            for name in ("multiple", "equal")
        ),
    ],
)
def test_after_a_breakdown_there_is_no_garbage(spectrum, dtype):
    eigenvalues = np.asarray(SPECTRA[spectrum])
    found = top_eigenvalues(operator_with(eigenvalues, dtype), 20)
    eps = float(jnp.finfo(dtype).eps)
    rank = int(np.sum(eigenvalues > 60 * eps * eigenvalues[0]))
    count = min(20, rank)
    assert count - 1 <= len(found.values) <= count + 1  # the last may be at the noise itself
    count = min(count, len(found.values))
    np.testing.assert_allclose(
        found.values[:count], eigenvalues[:count], atol=60 * eps * eigenvalues[0]
    )
    assert np.all(found.errors < 60 * eps * eigenvalues[0])
    assert found.lambda_max == found.values[0]


@pytest.mark.parametrize("scale", [1e-25, 1e15])
def test_any_scale_even_in_single_precision(scale):
    eigenvalues = np.arange(1, 61.0) ** -1
    found = top_eigenvalues(operator_with(scale * eigenvalues, jnp.float32), 4)
    np.testing.assert_allclose(found.values, scale * eigenvalues[:4], rtol=1e-5)


def test_each_error_is_a_bound_and_few_steps_have_a_large_one():
    eigenvalues = 1 + np.linspace(1, 0, 60)
    operator = operator_with(eigenvalues)
    for steps in (3, 20, 60):
        found = top_eigenvalues(operator, 2, steps=steps)
        assert steps > 3 or found.errors[0] > 1e-3
        for value, error in zip(found.values, found.errors):
            assert np.min(np.abs(eigenvalues - value)) <= error + 1e-13
        assert np.all(found.values <= eigenvalues[:2] + 1e-13)
    assert found.errors[0] < 1e-12


def test_vectors_are_eigenvectors():
    operator = operator_with([5.0, 5.0, 1.0])
    found = top_eigenvalues(operator, 20)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(3), atol=1e-12)
    products = found.vectors @ np.asarray(operator.matrix)
    np.testing.assert_allclose(products, found.values[:, None] * found.vectors, atol=1e-12)


def test_zeros_one_entry_and_more_than_there_are():
    zero = top_eigenvalues(MatrixOperator(jnp.zeros((5, 5))), 3)
    assert zero.values.tolist() == zero.errors.tolist() == [0.0]
    one = top_eigenvalues(MatrixOperator(jnp.array([[4.0]])), 3)
    assert one.values.tolist() == [4.0]


@pytest.mark.parametrize("chunk", [pytest.param(None, marks=pytest.mark.heavy), 7])
def test_a_networks_kernel(chunk):
    params, x = case.make(20, 3)
    expected = np.linalg.eigvalsh(case.matrix(params, x))[::-1]
    operator = KernelOperator(case.f, params, x, chunk=chunk)
    found = top_eigenvalues(operator, 5)
    np.testing.assert_allclose(found.values, expected[:5], rtol=1e-8)
    other = top_eigenvalues(operator, 5, key=jax.random.key(7))
    np.testing.assert_allclose(other.values, found.values, rtol=1e-8)


def test_duplicated_inputs_have_the_rank_of_the_others():
    params, x = case.make(4, 2)
    x = jnp.concatenate([x, x, x])
    found = top_eigenvalues(KernelOperator(case.f, params, x), 24)
    expected = np.linalg.eigvalsh(case.matrix(params, x))[::-1]
    assert len(found.values) == 8
    np.testing.assert_allclose(found.values, expected[:8], rtol=1e-9)


def test_what_cannot_be_done():
    with pytest.raises(NonFiniteKernelError):
        top_eigenvalues(MatrixOperator(jnp.full((3, 3), jnp.nan)))
    for arguments in ({"k": 0}, {"steps": 0}):
        with pytest.raises(KernelInputError, match="at least one"):
            top_eigenvalues(MatrixOperator(jnp.eye(3)), **arguments)
