import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train.data import Normalization


@pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 5, 3), (2, 4, 5, 3)])
@pytest.mark.parametrize("constants", [((0.1, 0.5, 0.7), (0.2, 0.3, 0.4)), ((0.5,), (0.25,))])
def test_both_libraries_agree_with_the_definition(shape, constants, rng):
    images = rng.integers(0, 256, shape, np.uint8)
    mean, std = map(np.array, constants)
    for got in (Normalization(*constants)(images), Normalization(*constants)(jnp.asarray(images))):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, (images / 255 - mean) / std, atol=2e-6)
    mirrored = images[..., ::-1, :] if images.ndim > 1 else images
    expected = (mirrored / 255 - mean) / std
    np.testing.assert_allclose(Normalization(*constants)(mirrored), expected, atol=2e-6)
