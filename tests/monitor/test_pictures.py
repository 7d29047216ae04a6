"""Every picture of kernels of all sorts: what they show, and that none of them breaks."""

import dataclasses
import threading

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

from ntk_train import NTKHook
from ntk_train.monitor.pictures import change_picture, kernel_picture, layers_picture, pictures_of
from ntk_train.monitor.pictures.canvas import number, shortened
from ntk_train.monitor.pictures.heatmap import _cosines, _order
from ntk_train.spectrum import Diagnostics, ReferenceKernels, Spectrum, diagnose
from ntk_train.spectrum.layers import LayerDiagnostics


@dataclasses.dataclass
class Measured:
    step: int
    kernel: np.ndarray
    diagnostics: Diagnostics


def measured(kernel, layers=None, **kwargs):
    found = diagnose(kernel, step=5, **kwargs)
    return Measured(5, kernel, dataclasses.replace(found, layers=layers or {}))


def gram(n, seed=0):
    jacobian = np.random.default_rng(seed).normal(size=(n, 2 * n))
    return jacobian @ jacobian.T


def many_layers(count):
    return {f"block_{i}/Dense": LayerDiagnostics(1 / count, 10.0**i) for i in range(count)}


not_finite = Diagnostics(Spectrum(np.full(3, np.nan), np.nan, np.nan), {})
CASES = {
    "usual": (measured(gram(12), many_layers(4)), np.arange(12) % 3),
    "full": (measured(np.einsum("nm,op->nomp", gram(4), np.eye(3))), np.eye(3)[[0, 1, 2, 0]]),
    "one": (measured(np.ones((1, 1))), [0]),
    "zero": (measured(np.zeros((4, 4)), {"a": LayerDiagnostics(np.nan, 0.0)}), [0, 0, 1, 1]),
    "wide range": (measured(np.diag(10.0 ** np.linspace(-150, 150, 9))), None),
    "equal": (measured(np.eye(6)), np.arange(6)),
    "rank one": (measured(np.ones((6, 6))), np.linspace(0, 1, 6)),
    "not finite": (Measured(5, np.full((3, 3), np.nan), not_finite), [0, 1, 1]),
    "200 classes, 60 layers": (measured(gram(400), many_layers(60)), np.arange(400) % 200),
}


@pytest.mark.parametrize("case", CASES)
def test_pictures_of_any_kernel(case):
    measurement, labels = CASES[case]
    pictures = pictures_of(measurement, labels)
    layers = {"layers"} if measurement.diagnostics.layers else set()
    assert set(pictures) == {"spectrum", "eigenvalues", "kernel"} | layers
    for name, picture in pictures.items():
        assert picture.dtype == np.uint8, name
        assert picture.shape[0] == 1
        assert picture.shape[3] == 3
        assert picture.shape[2] >= 480, "wide enough to be read when enlarged"
        assert np.median(picture) >= 240 or name == "kernel", f"{name}: dark on white"
        assert picture.min() < 120, f"{name} is empty"


def test_layers_of_a_hook_are_drawn():
    found = []
    hook = NTKHook(
        lambda params, x: jnp.tanh(x @ params["a"]["w"]) @ params["b"]["w"],
        jnp.sin(jnp.arange(12.0)).reshape(4, 3),
        on_steps=[0],
        per_layer=True,
        stop_when=lambda measurement: found.append(measurement),
    )
    with hook:
        hook(0, params={"a": {"w": jnp.ones((3, 5))}, "b": {"w": jnp.ones((5, 1))}})
    drawn = found[0].diagnostics.layers
    assert set(drawn) == set(found[0].layers) == {"a", "b"}
    want = layers_picture(drawn, "Layers, step 0")
    np.testing.assert_array_equal(pictures_of(found[0])["layers"][0], want)


def test_the_change_is_drawn_from_the_second_kernel_on():
    first, second = gram(4), gram(4, seed=1)
    assert "change" not in pictures_of(measured(first), history=[(0, {"trace": 1.0})])
    references = ReferenceKernels.start(first, 0)
    moved = measured(second, references=references)
    picture = pictures_of(moved)["change"]
    with_past = pictures_of(moved, history=[(1, {"relative_change": 0.1}), (5, {})])["change"]
    assert picture.shape == with_past.shape
    assert np.any(picture != with_past)


def test_a_change_of_zero_has_no_place_on_a_logarithmic_axis():
    history = [(0, {"relative_change": 0.0}), (1, {"kernel_distance": np.nan})]
    assert change_picture(history, "nothing") is None


def test_cosines_are_of_the_traced_kernel_and_do_not_depend_on_scale():
    kernel = gram(5)
    scale = np.arange(1.0, 6.0)
    cosines, traced = _cosines(kernel * scale[:, None] * scale)
    np.testing.assert_allclose(cosines, _cosines(kernel)[0])
    np.testing.assert_allclose(np.diagonal(cosines), 1)
    assert not traced
    full, traced = _cosines(np.einsum("nm,op->nomp", kernel, np.diag([1.0, 3.0])))
    np.testing.assert_allclose(full, cosines)
    assert traced


@pytest.mark.parametrize(
    ("labels", "order", "starts", "names"),
    [
        (None, [0, 1, 2, 3], [0], []),
        ([1, 0, 1, 0], [1, 3, 0, 2], [0, 2], ["0", "1"]),
        (np.eye(2)[[1, 0, 1, 0]], [1, 3, 0, 2], [0, 2], ["0", "1"]),
        ([[-1], [1], [-1], [1]], [0, 2, 1, 3], [0, 2], ["-1", "1"]),
        ([0.5, 0.1, 0.7, 0.2], [1, 3, 0, 2], [0], []),
    ],
)
def test_examples_are_ordered_by_class(labels, order, starts, names):
    found = _order(labels, 4)
    assert (found[0].tolist(), list(found[1]), found[2]) == (order, starts, names)


def test_the_order_of_the_probe_does_not_change_the_picture():
    kernel, labels = gram(9), np.repeat([0, 1, 2], 3)
    shuffled = np.array([3, 0, 6, 4, 1, 7, 5, 2, 8])  # keeps the order within each class
    first = kernel_picture(kernel, "", labels)
    again = kernel_picture(kernel[np.ix_(shuffled, shuffled)], "", labels[shuffled])
    np.testing.assert_array_equal(first, again)


def test_threads_draw_at_the_same_time_and_leave_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    measurement, labels = CASES["usual"]
    expected = pictures_of(measurement, labels)
    drawn = [None] * 4

    def draw(i):
        drawn[i] = pictures_of(measurement, labels)

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pictures in drawn:
        for name, picture in expected.items():
            np.testing.assert_array_equal(pictures[name], picture)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05, "0.05"), (320.4, "320"), (1e6, "10⁶"), (2.5e-7, "2.5·10⁻⁷"), (9169, "9169")],
)
def test_numbers_for_the_eye(value, text):
    assert number(value) == text


def test_long_names_keep_both_ends():
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert shortened("abc", 5) == "abc"
