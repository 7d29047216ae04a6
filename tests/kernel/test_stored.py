"""A kernel that is written tile by tile is that which is made at once, also after it was killed."""

import errno
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import KernelInputError, linen_fn, models, ntk, ntk_to
from tests.bank import BANK

ROOT = pathlib.Path(__file__).parents[2]
CASES = [
    case for case in BANK if case.name in ("fully_connected", "recurrence", "pytree_of_inputs")
]


def f(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


stopped = jax.lax.stop_gradient


def example(n=11):
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(5, 7)), "v": rng.normal(size=(7, 3))}
    return params, rng.normal(size=(n, 5))


@pytest.mark.parametrize("outputs", ["full", "trace", "diagonal", "sum", "chosen"])
@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("implementation", ["structured", "jacobian_contraction"])
def test_every_mode_in_tiles_that_do_not_fit(tmp_path, outputs, other, implementation):
    params, x = example()
    x2 = x[:6] + 1 if other else None
    if outputs == "chosen":
        outputs = np.arange(11) % 3
        outputs = (outputs, outputs[:6]) if other else outputs
    options = {"outputs": outputs, "implementation": implementation}
    found = ntk_to(tmp_path, f, params, x, x2, tile=4, progress=False, **options)
    np.testing.assert_allclose(found, ntk(f, params, x, x2, **options), rtol=1e-10, atol=1e-10)
    assert not found.flags.writeable


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_of_the_bank(tmp_path, case):
    f, params, x1, x2 = case.make("float64")
    found = ntk_to(tmp_path / "one", f, params, x1, outputs="full", tile=3, progress=False)
    np.testing.assert_allclose(found, ntk(f, params, x1), rtol=1e-10, atol=1e-10)
    found = ntk_to(tmp_path / "two", f, params, x1, x2, outputs="full", tile=3, progress=False)
    np.testing.assert_allclose(found, ntk(f, params, x1, x2), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("budget", [None, 2e4])
def test_with_state_and_hardly_any_memory(tmp_path, budget):
    model = models.create_model("resnet-18", num_outputs=2, stages=(1, 1), features=4)
    x = jax.random.normal(jax.random.key(0), (5, 8, 8, 3))
    variables = model.init(jax.random.key(1), x)
    state = {name: tree for name, tree in variables.items() if name != "params"}
    options = {"model_state": state, "memory_budget": budget}
    found = ntk_to(tmp_path, linen_fn(model), variables["params"], x, progress=False, **options)
    expected = ntk(linen_fn(model), variables["params"], x, outputs="trace", **options)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_what_is_there_is_not_computed_again(tmp_path):
    params, x = example()
    seen = []
    whole = np.array(ntk_to(tmp_path, f, params, x, tile=4, progress=seen.append))
    assert [now.done for now in seen] == list(range(7))
    assert {now.tiles for now in seen} == {6}
    assert seen[-1].seconds_left == 0
    assert seen[-1].entries_per_second > 0
    again = []
    np.testing.assert_array_equal(ntk_to(tmp_path, f, params, x, progress=again.append), whole)
    assert [now.done for now in again] == [6]  # in the tiles that it was begun with


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x1": 1}, "x1 was"),
        ({"params": 1}, "parameters was"),
        ({"outputs": "sum"}, "outputs was trace, now sum"),
        ({"precision": "highest"}, "precision was float32, now highest"),
        ({"tile": 5}, "tile was"),
        ({"x2": 1}, "x2 was None"),
        ({"param_filter": lambda path: path == "w"}, "differentiated parameters was"),
        ({"f": lambda params, x: 2 * f(params, x)}, "program of f was .*outputs of f was"),
        ({"f": lambda params, x: f({**params, "w": stopped(params["w"])}, x)}, "program of f was"),
        ({"f": lambda params, x: f(params, x) + np.full(3, 1e-9)}, "program of f was"),
    ],
)
def test_another_kernel_does_not_go_on(tmp_path, change, said):
    params, x = example()
    ntk_to(tmp_path, f, params, x, tile=4, progress=False)
    if "x1" in change:
        change = {"x1": x + 1e-12}
    if "x2" in change:
        change = {"x2": x}
    if "params" in change:
        change = {"params": {**params, "w": params["w"] * (1 + 1e-12)}}
    arguments = {"f": f, "params": params, "x1": x, "tile": 4, "progress": False} | change
    with pytest.raises(KernelInputError, match=said):
        ntk_to(tmp_path, **arguments)


def test_folders_that_are_refused(tmp_path, monkeypatch):
    params, x = example()
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(KernelInputError, match="is not empty and has no kernel"):
        ntk_to(tmp_path, f, params, x)
    with pytest.raises(KernelInputError, match=r"thesis.tex is a file"):
        ntk_to(tmp_path / "thesis.tex", f, params, x)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(KernelInputError, match=r"takes 9\.68e-07 GB"):
        ntk_to(tmp_path / "new", f, params, x)
    with pytest.raises(KernelInputError, match="tile=0"):
        ntk_to(tmp_path / "new", f, params, x, tile=0)


def test_another_function_of_the_outputs_does_not_go_on(tmp_path):
    params, x = example()

    def of_outputs(scale):
        return lambda y: scale * y[:, :2]

    for folder, scale in (("one", 1.0), ("two", 2.0)):
        ntk_to(tmp_path / folder, f, params, x, outputs=of_outputs(scale), progress=False)
    with pytest.raises(KernelInputError, match="outputs of f was"):
        ntk_to(tmp_path / "one", f, params, x, outputs=of_outputs(2.0))


def test_parameters_beside_functions(tmp_path):
    params, x = example()
    params["activation"] = jnp.tanh

    def g(params, x):
        return params["activation"](x @ params["w"]) @ params["v"]

    found = ntk_to(tmp_path, g, params, x, tile=4, progress=False)
    np.testing.assert_allclose(found, ntk(g, params, x, outputs="trace"), rtol=1e-10)


def test_outputs_that_are_not_finite_go_on(tmp_path):
    params, x = example()
    x[0] = np.nan
    for _ in range(2):
        assert np.isnan(ntk_to(tmp_path, f, params, x, tile=4, progress=False)[0]).all()


@pytest.mark.parametrize("name", ["about.json", "kernel.npy", "done.npy"])
def test_a_damaged_folder_is_said_to_be(tmp_path, name):
    params, x = example()
    ntk_to(tmp_path, f, params, x, tile=4, progress=False)
    (tmp_path / name).unlink()
    if name == "about.json":
        (tmp_path / name).write_text("")
    with pytest.raises(KernelInputError, match="damaged kernel"):
        ntk_to(tmp_path, f, params, x)


def test_a_full_disk_is_an_error_at_once(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    params, x = example()
    with pytest.raises(OSError, match="No space left"):
        ntk_to(tmp_path, f, params, x, progress=False)
    monkeypatch.undo()
    ntk_to(tmp_path, f, params, x, progress=False)


def test_errors_of_f_are_its_own(tmp_path):
    def failing(params, x):
        raise RuntimeError("mine")

    params, x = example()
    with pytest.raises(RuntimeError, match="mine"):
        ntk_to(tmp_path, failing, params, x)
    with pytest.raises(KernelInputError, match="params and x1 are swapped"):
        ntk_to(tmp_path, lambda x, params: f(params, x), params, x)
    with pytest.raises(KernelInputError, match=r"jax\.jit"):
        jax.jit(lambda x: ntk_to(tmp_path, f, params, x))(x)


def test_no_examples(tmp_path):
    params, x = example(0)
    assert ntk_to(tmp_path, f, params, x, progress=False).shape == (0, 0)


def test_the_progress_is_shown(tmp_path, capsys):
    params, x = example()
    ntk_to(tmp_path, f, params, x, tile=4)
    assert "kernel: 6 of 6 tiles" in capsys.readouterr().err


SLOWLY = """
import sys, time
from tests.kernel.test_stored import example, f
from ntk_train import ntk_to

params, x = example(40)
ntk_to(sys.argv[1], f, params, x, tile=5, progress=lambda now: time.sleep(0.1))
"""


def test_killed_again_and_again_it_is_the_same_bit_for_bit(tmp_path):
    command = [sys.executable, "-c", SLOWLY, str(tmp_path / "killed")]
    environment = os.environ | {"JAX_ENABLE_X64": "1"}
    kills = 0
    done = tmp_path / "killed" / "done.npy"
    for wanted in (1, 7, 15, 22, 30):
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        while process.poll() is None and not (done.exists() and np.load(done).sum() >= wanted):
            time.sleep(0.02)
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills == 5
    assert subprocess.run(command, cwd=ROOT, env=environment, check=True).returncode == 0
    params, x = example(40)
    whole = ntk_to(tmp_path / "whole", f, params, x, tile=5, progress=False)
    np.testing.assert_array_equal(np.load(tmp_path / "killed" / "kernel.npy"), whole)
    np.testing.assert_allclose(whole, ntk(f, params, x, outputs="trace"), rtol=1e-10)
