"""Names of the axes of parameters, and models whose parameters are divided over devices."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from ntk_train.models import logical_axes, partition_specs
from tests.models.tiny import TINY, tiny, variables_of

MESH = AbstractMesh((2, 2), ("data", "model"))


@pytest.mark.parametrize(
    ("title", "scan"), [*((title, False) for title in TINY), ("vit", True), ("mixer", True)]
)
def test_every_axis_of_every_parameter_has_a_name(title, scan):
    model = tiny(title, **({"scan_layers": True} if scan else {}))
    params = variables_of(model)[1]["params"]
    axes = logical_axes(params)
    lengths = jax.tree.map(lambda names: len(names), axes, is_leaf=lambda a: isinstance(a, tuple))
    assert lengths == jax.tree.map(jnp.ndim, params)
    for spec, leaf in zip(
        jax.tree.leaves(
            partition_specs(params, MESH), is_leaf=lambda s: isinstance(s, PartitionSpec)
        ),
        jax.tree.leaves(params),
        strict=True,
    ):
        assert len(spec) == leaf.ndim
        assert all(size % 2 == 0 for name, size in zip(spec, leaf.shape) if name)


def test_attention_is_divided_by_heads_and_mlps_by_hidden_features():
    params = variables_of(tiny("vit", scan_layers=True))[1]["params"]
    block = partition_specs(params, MESH)["blocks"]
    assert block["attention"]["query"]["kernel"] == PartitionSpec(None, None, "model", None)
    assert block["attention"]["out"]["kernel"] == PartitionSpec(None, "model", None, None)
    assert block["mlp"]["expand"]["kernel"] == PartitionSpec(None, None, "model")
    assert block["mlp"]["contract"]["kernel"] == PartitionSpec(None, "model", None)
    assert block["mlp"]["contract"]["bias"] == PartitionSpec(None, None)
    axes = logical_axes(params)
    assert axes["blocks"]["attention"]["key"]["bias"] == ("layers", "heads", "head_features")
    assert axes["positions"] == (None, "tokens", "embed")


def test_axes_that_do_not_divide_or_that_the_mesh_lacks_stay_whole():
    params = variables_of(tiny("fcn"))[1]["params"]  # widths 6 and 5
    specs = partition_specs(params, MESH)
    assert specs["Dense_0"]["kernel"] == PartitionSpec(None, "model")
    assert specs["Dense_1"]["kernel"] == PartitionSpec(None, None)
    data_only = partition_specs(params, AbstractMesh((4,), ("data",)))
    assert data_only["Dense_0"]["kernel"] == PartitionSpec(None, None)
    by_inputs = partition_specs(params, MESH, {"features_in": "data"})
    assert by_inputs["Dense_0"]["kernel"] == PartitionSpec("data", None)


def test_parameters_of_other_models_are_refused():
    with pytest.raises(
        ValueError, match=r"Parameter my/weight of shape \(2, 3\) has no named axes"
    ):
        logical_axes({"my": {"weight": jnp.ones((2, 3))}})


PROGRAM = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding
from ntk_train.models import create_model, partition_specs

mesh = jax.make_mesh((1, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
x = jax.random.normal(jax.random.key(0), (2, 8, 8, 2))
small = {"patch_size": 4, "width": 8, "depth": 2, "num_heads": 2, "scan_layers": True}
model = create_model("vit-s/16", num_outputs=3, **small)
params = jax.jit(model.init)(jax.random.key(1), x)["params"]
specs = partition_specs(params, mesh)
sharded = jax.tree.map(lambda a, s: jax.device_put(a, NamedSharding(mesh, s)), params, specs)
kernel = sharded["blocks"]["mlp"]["expand"]["kernel"]
assert kernel.addressable_shards[0].data.shape[-1] == kernel.shape[-1] // 2
loss = jax.jit(jax.value_and_grad(lambda p: (model.apply({"params": p}, x) ** 2).sum()))
close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
jax.tree.map(close, loss(sharded), loss(params))
print(jax.device_count(), "devices agree")
"""


@pytest.mark.heavy
def test_a_model_divided_over_devices_has_the_same_loss_and_gradient():
    devices = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=pathlib.Path(__file__).parents[2],
        env=os.environ | devices,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2 devices agree"
