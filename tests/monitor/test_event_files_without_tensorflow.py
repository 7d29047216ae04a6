"""The writer on tensorboardX and the layout: read back by TensorBoard, with TensorFlow blocked."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util import tensor_util

from ntk_train.monitor import tensorboard_writer, write_layout
from ntk_train.monitor.dashboard import layout
from ntk_train.monitor.tags import tag_of, tagged
from ntk_train.spectrum import ReferenceKernels, SquaredLoss, Training, diagnose
from ntk_train.spectrum.quantities import CATALOGUE, quantity

ROOT = pathlib.Path(__file__).parents[2]


def read(folder):
    events = plugin_event_accumulator.EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    found = {}
    for tag in events.Tags()["tensors"]:
        plugin = events.SummaryMetadata(tag).plugin_data.plugin_name
        values = [(e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
        found[tag] = (plugin, values)
    return found


def test_every_kind_of_summary_is_read_back(tmp_path):
    writer = tensorboard_writer(tmp_path)
    writer.write_scalars(3, {"a/b": np.float32(0.5), "nan": np.nan})
    writer.write_images(3, {"image": np.full((2, 4, 6, 3), 7, np.uint8)})
    writer.write_histograms(3, {"many": np.array([1.0, np.nan, 2.0]), "none": np.array([np.inf])})
    writer.write_texts(3, {"text": "| a |"})
    writer.write_hparams({"n": np.int64(3), "on": True, "name": "x", "shape": (2, 3)})
    writer.flush()
    writer.close()
    found = read(tmp_path)
    assert found["a/b"][0] == "scalars"
    assert found["a/b"][1] == [(3, 0.5)]
    assert np.isnan(found["nan"][1][0][1])
    width, height, png = found["image"][1][0][1]
    assert (found["image"][0], width, height, png[:4]) == ("images", b"12", b"4", b"\x89PNG")
    buckets = found["many"][1][0][1]
    assert buckets[:, 2].sum() == 2
    assert "none" not in found
    assert found["text/text_summary"][1][0][1].ravel()[0] == b"| a |"
    assert found["_hparams_/session_start_info"][0] == "hparams"


def test_two_writers_of_one_second_do_not_overwrite_each_other(tmp_path):
    for value in (1.0, 2.0):
        writer = tensorboard_writer(tmp_path)
        writer.write_scalars(int(value), {"a": value})
        writer.close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2


def logged_tags(prefix):
    """Of what `diagnose` makes of everything it takes, and of the hook's own, with their entries.

    By their tags, so that both the layout and the catalogue are compared with what is written.
    """
    kernel = np.einsum("nm,op->nomp", np.diag([3.0, 2.0, 1.0]), np.eye(2))
    found = diagnose(
        kernel,
        labels=np.array([0, 1, 0]),
        training=Training(SquaredLoss(), 0.1),
        layers={"Dense_0": kernel / 2, "Block_0/Dense_0": kernel / 2},
        references=ReferenceKernels.start(kernel * 2, 0),
        step=1,
    )
    own = [entry.name for entry in CATALOGUE if entry.needs == "hook"]
    tags = [*tagged(prefix, found), *(tag_of(prefix, name) for name in own)]
    return {tag: quantity(tag.split("/")[-1], layer="_layers/" in tag) for tag in tags}


@pytest.mark.parametrize("probe", ["", "_test"])
def test_the_layout_has_a_chart_for_all_that_is_logged(probe):
    kernel, training = layout("ntk").category
    patterns = {chart.title: chart.multiline.tag[0] for chart in kernel.chart}
    logged = logged_tags(f"ntk{probe}")
    for tag, entry in logged.items():
        charts = [title for title, pattern in patterns.items() if re.match(pattern, tag)]
        assert charts == ([entry.panel] if entry.panel else []), tag
    for pattern in patterns.values():
        assert any(re.match(pattern, tag) for tag in logged), pattern
        assert not re.match(pattern, "other/trace")
    assert any(re.match(chart.multiline.tag[0], "train_loss") for chart in training.chart)


def test_the_layout_goes_through_the_writer_of_the_run(tmp_path):
    metric_writers = pytest.importorskip("clu.metric_writers")
    writer = metric_writers.create_default_writer(str(tmp_path))
    assert write_layout(writer, "mine")
    writer.close()
    (file,) = tmp_path.glob("events.out.tfevents.*")
    ((_, value),) = read(tmp_path)["custom_scalars__config__"][1]
    found = layout_pb2.Layout.FromString(value.item())
    assert found == layout("mine")
    assert found.category[0].title == "NTK: mine"
    assert file.stat().st_size < 10_000


def test_a_writer_without_summaries_has_no_layout():
    assert not write_layout(object())
    assert not write_layout(None)


def test_a_missing_tensorboardx_is_named(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "boardX" in name else find_spec(name)
    )
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ntk_train\[tensorboard\]'"):
        tensorboard_writer(tmp_path)


def test_the_hook_writes_all_it_has_without_tensorflow_and_clu(tmp_path):
    program = f"""
import sys
sys.modules.update(dict.fromkeys(["tensorflow", "clu"]))
import jax.numpy as jnp
from ntk_train import NTKHook
from ntk_train.monitor import tensorboard_writer
writer = tensorboard_writer({str(tmp_path)!r})
f, probe = lambda w, x: jnp.tanh(x @ w), jnp.sin(jnp.arange(12.0)).reshape(4, 3)
hook = NTKHook(f, probe, every_steps=2, writer=writer, labels=[0, 1, 0, 1])
for step in range(3):
    hook(step, params=jnp.ones((3, 2)) * (step + 1) / 5)
hook.close()
writer.close()
print(hook.latest.spectrum.lambda_max, hook.failures)
"""
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = read(tmp_path)
    lambda_max, failures = done.stdout.split()
    assert failures == "0"
    assert [step for step, _ in found["ntk/lambda_max"][1]] == [0, 2]
    assert found["ntk/lambda_max"][1][-1][1] == pytest.approx(float(lambda_max), rel=1e-6)
    assert found["ntk/log10_eigenvalues"][0] == "histograms"
    assert found["ntk/spectrum"][0] == "images"
    assert found["custom_scalars__config__"][0] == "custom_scalars"
    assert b"| num outputs | 2 |" in found["ntk/convention/text_summary"][1][0][1].ravel()[0]
