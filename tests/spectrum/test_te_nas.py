"""TE-NAS's proxy against explicit gradients of the summed logits of a network with BatchNorm."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import KernelInputError, NonFiniteKernelError
from ntk_train.spectrum import te_nas_condition_number
from ntk_train.spectrum.te_nas import weights_only


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), param_dtype=jnp.float64)(x)
        x = nn.BatchNorm(use_running_average=False, param_dtype=jnp.float64)(x)
        return nn.Dense(3, param_dtype=jnp.float64)(nn.relu(x).mean((1, 2)))


MODEL = Network()
X = jax.random.normal(jax.random.key(0), (5, 6, 6, 1), jnp.float64)
STATE = MODEL.init(jax.random.key(0), X)["batch_stats"]


def f(params, x):
    return MODEL.apply({"params": params, "batch_stats": STATE}, x, mutable=["batch_stats"])[0]


def init(key):
    return MODEL.init(key, X)["params"]


def by_hand(params):
    gradients = []
    for n in range(len(X)):
        g = jax.grad(lambda params, n=n: f(params, X)[n].sum())(params)
        # Conv2d.weight, BatchNorm2d.weight and Linear.weight in PyTorch.
        weights = g["Conv_0"]["kernel"], g["BatchNorm_0"]["scale"], g["Dense_0"]["kernel"]
        gradients.append(np.concatenate([weight.ravel() for weight in weights]))
    eigenvalues = np.linalg.eigvalsh(np.stack(gradients) @ np.stack(gradients).T)
    return eigenvalues[-1] / eigenvalues[0]


def test_it_is_the_mean_over_initialisations_of_the_definition():
    starts = [init(jax.random.key(seed)) for seed in (3, 4)]
    expected = [by_hand(start) for start in starts]
    found = te_nas_condition_number(f, init, X, seeds=(3, 4))
    assert found.condition_number == pytest.approx(np.mean(expected), rel=1e-6)
    assert found.median_condition_number == pytest.approx(np.median(expected), rel=1e-6)
    assert not found.condition_is_lower_bound
    same = te_nas_condition_number(f, None, X, params=starts)
    assert same.condition_number == pytest.approx(found.condition_number)


def test_duplicated_inputs_make_it_a_lower_bound():
    x = jnp.concatenate([X, X[:1]])
    found = te_nas_condition_number(f, init, x, seeds=(0,))
    assert found.condition_is_lower_bound
    assert found.spectra[0].numerical_rank == 5


def test_weights_are_what_is_named_so_in_pytorch():
    paths = ("a/kernel", "embedding", "BatchNorm_0/scale", "a/bias", "BatchNorm_0/bias")
    assert [weights_only(path) for path in paths] == [True, True, True, False, False]


def test_what_does_not_fit():
    for arguments in ({"init": None}, {"init": init, "params": [{}]}):
        with pytest.raises(KernelInputError, match="either init"):
            te_nas_condition_number(f, x=X, **arguments)
    with pytest.raises(KernelInputError, match="seeds is empty"):
        te_nas_condition_number(f, init, X, seeds=())
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, init(jax.random.key(0)))
    with pytest.raises(NonFiniteKernelError):
        te_nas_condition_number(f, None, X, params=[broken])
