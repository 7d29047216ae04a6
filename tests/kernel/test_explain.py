"""What `explain` says of networks whose plan is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from ntk_train import explain
from tests.bank import BANK


def test_a_convolutional_network_by_its_shapes_alone():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(64, (3, 3))(x))
            x = nn.relu(nn.Conv(256, (3, 3), (2, 2))(x))
            return nn.Dense(1000)(x.mean(axis=(1, 2)))

    x = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    params = jax.eval_shape(Net().init, jax.random.key(0), x)["params"]
    found = explain(lambda p, x: Net().apply({"params": p}, x), params, x)
    parts = {part.path: part for part in found.plan.all_parts}
    assert {path: part.way.name for path, part in parts.items()} == {
        "Conv_0/bias": "transposed",
        "Conv_0/kernel": "jacobian",  # 27 x 64 numbers, and 256 positions: smaller than any Gram
        "Conv_1/bias": "transposed",
        "Conv_1/kernel": "half_gram",  # 64 positions with 256 features, of 576 x 256 numbers
        "Dense_0/bias": "identity",  # what it adds to is the output
        "Dense_0/kernel": "identity",
    }
    sizes = parts["Conv_1/kernel"].way.sizes
    assert (sizes.r, sizes.t, sizes.a, sizes.b) == (1, 64, 576, 256)
    assert found.plan.inner.rows == 2 * 256  # the 256 features separate all but Dense_0
    assert found.rows == 2000
    assert found.num_parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found.row_numbers == (64 + 27 * 64) + (256 + 64 * 256) + (1 + 1000)
    table = str(found)
    assert "test_explain.py:" in table  # the line of code at which a parameter meets data
    assert "structured" in table.splitlines()[-3]
    assert table.splitlines()[-3].endswith("<- auto")
    assert "in place of 1000 outputs" in table


@pytest.mark.parametrize(
    ("name", "untouched"),
    [
        ("scan_over_layers_with_remat", {"layers/w", "out"}),
        ("scan_in_a_scan", {"w", "u", "i"}),
        ("slices_of_stacked_and_fused_weights", {"w", "qk", "split", "u"}),
        ("embedding_of_repeated_and_missing_tokens", {"table", "by_column", "w"}),
        ("recurrence_with_outputs_at_each_step", {"u", "w", "v"}),
        ("transposed_scaled_reshaped_weights", {"0", "1", "2"}),
        ("one_layer_called_several_times", {""}),
        ("products_in_every_arrangement", {"0", "1", "2", "3"}),
        ("remat_and_jit", {"0", "1"}),
    ],
)
def test_weights_are_looked_through_to_and_factored(name, untouched):
    (case,) = [case for case in BANK if case.name == name]
    f, params, x1, _ = case.make("float32")
    found = explain(f, params, x1)
    factored = [part for part in found.plan.all_parts if part.way.name != "transposed"]
    assert {part.path for part in factored} == untouched


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("float32", "forward pass float32, backward pass float32, Jacobian float32, Gram float32"),
        ("fast", "forward pass float32, backward pass float32, Jacobian float32, Gram float32"),
        ("split", "forward pass float32, backward pass float32, Jacobian float32, Gram float32"),
        ("high", "forward pass high, backward pass high, Jacobian high, Gram high"),
        (None, "forward pass as f says, backward pass as f says, Jacobian as f says, Gram float32"),
    ],
)
def test_it_says_what_runs_in_each_stage(precision, expected):
    x = jnp.ones((2, 3))
    explained = explain(lambda w, x: x @ w, jnp.ones((3, 2)), x, precision=precision)
    assert f"Products: {expected}." in str(explained)
