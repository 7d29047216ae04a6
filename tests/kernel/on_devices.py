"""Kernels on meshes of eight devices of a CPU against those on one of them.

python -m tests.kernel.on_devices               # all of the bank, a quarter of an hour
python -m tests.kernel.on_devices recurrence remat_and_jit
python -m tests.kernel.on_devices --placements  # inputs wherever they may be
"""

import contextlib
import functools
import itertools
import sys
import tempfile
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ntk_train import KernelInputError, NTKHook, linen_fn, models, ntk, ntk_to
from tests.bank import BANK

for name, value in {
    "jax_platforms": "cpu",
    "jax_num_cpu_devices": 8,
    "jax_enable_x64": True,
}.items():
    jax.config.update(name, value)

# A function that divides its own work has a mesh of its own, and JAX knows one at a time.
DIVIDED = [
    case for case in BANK if case.batched and case.name not in ("sharding_constraint", "shard_map")
]
# In a shard_map JAX has no batches of convolutions in groups of the batch.
NO_BATCHES = ["conv_general_dilated"]
DEVICES = np.array(jax.devices())
MESHES = [
    (Mesh(DEVICES[:3], ("data",)), None),  # four examples, and three, come to no equal parts
    (Mesh(DEVICES, ("data",)), "data"),  # fewer examples than devices
    (Mesh(DEVICES[:4].reshape(2, 2), ("model", "data")), "data"),
]
WAYS = [
    ("full", "structured"),
    ("trace", "structured"),
    ("diagonal", "structured"),
    ("sum", "structured"),
    ("chosen", "structured"),
    ("full", "jacobian_contraction"),
    ("trace", "ntk_vector_products"),
]


def check_case(case, number):
    """Every mode, in turn on each mesh, with x2 and without."""
    f, params, x1, x2 = case.make("float64")
    for i, (mode, implementation) in enumerate(WAYS, number):
        plain = implementation != "structured"
        if implementation in case.gaps or (plain and case.name in NO_BATCHES):
            continue
        mesh, axis = MESHES[i % 3]
        other = x2 if i % 2 else None
        outputs = mode
        if mode == "chosen":
            n, m = (len(jax.tree.leaves(x)[0]) for x in (x1, x2))
            outputs = np.zeros(n, int) if other is None else (np.zeros(n, int), np.zeros(m, int))
        options = {"outputs": outputs, "implementation": implementation, "memory_budget": 1e9}
        if number % 4 == 0:
            options["memory_budget"] = 1e4  # the inputs go round
        expected = np.asarray(ntk(f, params, x1, other, **options))
        found = np.asarray(ntk(f, params, x1, other, mesh=mesh, axis=axis, **options))
        scale = max(np.abs(expected).max(), 1)
        np.testing.assert_allclose(
            found, expected, atol=1e-10 * scale, err_msg=f"{case.name} {mode} {implementation}"
        )


def check_placements():
    """Inputs on one device, on the mesh, traced; meshes in either mode; numbers that do not fit."""
    model = models.create_model("cnn", num_outputs=3)
    x = jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
    params = model.init(jax.random.key(1), x)["params"]
    f = linen_fn(model)
    expected = np.asarray(ntk(f, params, x, per_layer=True)["Conv_1"])
    modes = (AxisType.Auto, AxisType.Explicit)
    for mode, n, traced, on_mesh in itertools.product(modes, (8, 6), *[(False, True)] * 2):
        mesh = jax.make_mesh((4,), ("data",), axis_types=(mode,), devices=DEVICES[:4])
        x1, own = x[:n], params
        if on_mesh and n == 8:
            x1 = jax.device_put(x1, NamedSharding(mesh, PartitionSpec("data")))
            own = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))

        def kernel(params, x, mesh=mesh):
            return ntk(f, params, x, per_layer=True, mesh=mesh)["Conv_1"]

        run = jax.jit(kernel) if traced else kernel
        with jax.set_mesh(mesh) if mode == AxisType.Explicit else contextlib.nullcontext():
            found = run(own, x1)
        np.testing.assert_allclose(found, expected[:n, :, :n], rtol=1e-4, atol=1e-6)
        if n == 8:
            assert found.sharding.spec[0] == "data"
            assert found.addressable_shards[0].data.shape[0] == 2

    mesh = Mesh(DEVICES[:4], ("data",))
    checked = ntk(f, params, x[:3], x[:5], mesh=mesh, check=True)
    np.testing.assert_allclose(checked, ntk(f, params, x[:3], x[:5]), rtol=1e-4, atol=1e-6)
    sums = [
        lambda params, on=on: ntk(f, params, x[:3], outputs="trace", mesh=on).sum()
        for on in (None, mesh)
    ]
    grads = [jax.grad(of_trace)(params) for of_trace in sums]
    for one, divided in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(divided, one, rtol=1e-4, atol=1e-4)
    for wrong, said in (
        ({"mesh": 3}, "jax.sharding.Mesh"),
        ({"mesh": mesh, "axis": "model"}, "the name of one axis"),
        ({"mesh": mesh, "batched": False}, "batched=False"),
        ({"axis": "data"}, "mesh"),
    ):
        try:
            ntk(f, params, x, **wrong)
        except KernelInputError as error:
            assert said in str(error), error  # noqa: PT017
        else:
            raise AssertionError(wrong)
    explicit = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,), devices=DEVICES[:4])
    for own in (mesh, explicit):
        on_it = jax.device_put(x, NamedSharding(own, PartitionSpec("data")))
        checked = ntk(f, params, on_it, mesh=own, check=True)
        np.testing.assert_allclose(checked, ntk(f, params, x), rtol=1e-4, atol=1e-6)
        directions = jax.device_put(np.ones((3, 1)), NamedSharding(own, PartitionSpec()))
        found = ntk(f, params, x, outputs=directions, mesh=own)
        expected = ntk(f, params, x, outputs="sum")
        np.testing.assert_allclose(np.asarray(found)[:, 0, :, 0], expected, rtol=1e-4, atol=1e-6)
        for implementation in ("structured", "jacobian_contraction"):
            with tempfile.TemporaryDirectory() as folder:
                options = {"implementation": implementation, "progress": False}
                stored = np.array(ntk_to(folder, f, params, on_it, **options))
            np.testing.assert_allclose(stored, ntk(f, params, x, outputs="trace"), rtol=1e-4)

    def constrained(params, x):
        by_rows = NamedSharding(mesh, PartitionSpec("data"))
        return f(params, jax.lax.with_sharding_constraint(x, by_rows))

    try:
        ntk(constrained, params, x, mesh=mesh)
    except ValueError as error:
        assert "no sharding constraint" in " ".join(error.__notes__)  # noqa: PT017
    else:
        raise AssertionError

    try:
        ntk(f, params, x[:0], mesh=mesh)
    except KernelInputError as error:
        assert "none to divide" in str(error)  # noqa: PT017


def check_hook():
    """In a data-parallel step, whose parameters are the same bit for bit as without the hook."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=DEVICES[:2])
    model = models.create_model("cnn", num_outputs=3)
    x = jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
    labels = np.arange(8) % 3
    start = jax.device_get(model.init(jax.random.key(1), x)["params"])
    f = linen_fn(model)
    whole, divided = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(params, x, labels):
        def loss(params):
            logits = model.apply({"params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    def trained(hook):
        params = jax.device_put(start, whole)
        batch = jax.device_put((x, labels), divided)
        for number in range(4):
            params = step(params, *batch)
            if hook is not None:
                assert hook(number, params=params), hook.failures
        return jax.device_get(params)

    for options in ({}, {"outputs": "full", "per_layer": True}):
        hook = NTKHook(f, x[:5], every_steps=1, mesh=mesh, axis="data", **options)
        measured = trained(hook)
        jax.tree.map(np.testing.assert_array_equal, measured, trained(None))
        expected = ntk(f, measured, x[:5], outputs=options.get("outputs", "trace"))
        np.testing.assert_allclose(hook.latest.kernel, expected, rtol=1e-3, atol=1e-5)
        assert not hook.failures
    hook = NTKHook(f, x[:5], every_steps=1, mesh=mesh)
    on_one = jax.tree.map(jnp.asarray, start)
    assert hook(0, params=on_one), hook.failures
    np.testing.assert_allclose(hook.latest.kernel, ntk(f, start, x[:5], outputs="trace"), rtol=1e-3)


def main(arguments):
    """Checks what is named, or all of the bank."""
    warnings.simplefilter("ignore")
    if arguments == ["--placements"]:
        check_placements()
        return
    if arguments == ["--hook"]:
        check_hook()
        return
    for number, case in enumerate(DIVIDED):
        if not arguments or case.name in arguments:
            check_case(case, number)
            print(case.name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
