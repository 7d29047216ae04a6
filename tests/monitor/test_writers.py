"""Writers of others, as their users have them: read back by TensorBoard."""

import typing

import jax.numpy as jnp
import numpy as np
import pytest
import tensorboardX
from tensorboard.plugins.custom_scalar import layout_pb2

from ntk_train import NTKHook
from ntk_train.monitor import tensorboard_writer
from ntk_train.monitor.dashboard import layout
from ntk_train.monitor.writers import FullWriter, Kind, MetricWriter, method_of
from tests.monitor.test_event_files_without_tensorflow import read
from tests.monitor.test_hook import PARAMS, PROBE, f


def flax_writer(folder):
    return pytest.importorskip("flax.metrics.tensorboard").SummaryWriter(str(folder))


def tensorboardx_writer(folder):
    return tensorboardX.SummaryWriter(str(folder))


@pytest.mark.parametrize("make", [flax_writer, tensorboardx_writer])
def test_a_summary_writer_takes_all_that_the_hook_has(make, tmp_path):
    writer = make(tmp_path)
    hook = NTKHook(f, PROBE, every_steps=2, writer=writer, labels=[0, 1, 0, 1, 1, 0])
    for step in range(3):
        hook(step, params=PARAMS)
        if make is flax_writer:
            writer.scalar("loss", 0.5, step)
        else:
            writer.add_scalar("loss", 0.5, step)
    hook.close()
    assert hook.failures == 0
    writer.close()
    found = read(tmp_path)
    assert found["ntk/lambda_max"][0] == "scalars"
    assert [step for step, _ in found["ntk/lambda_max"][1]] == [0, 2]
    value = hook.latest.spectrum.lambda_max
    assert found["ntk/lambda_max"][1][-1][1] == pytest.approx(value, rel=1e-6)
    assert found["loss"][0] == "scalars"
    assert found["ntk/log10_eigenvalues"][0] == "histograms"
    images = found["ntk/spectrum"]
    assert images[0] == "images"
    assert images[1][0][1][2][:4] == b"\x89PNG"
    (text,) = [tag for tag in found if tag.startswith("ntk/convention")]
    assert b"| num outputs | 2 |" in found[text][1][0][1].ravel()[0]
    ((_, charts),) = found["custom_scalars__config__"][1]
    got = layout_pb2.Layout.FromString(charts.ravel()[0])
    tags = lambda of: [list(c.multiline.tag) for category in of.category for c in category.chart]
    assert tags(got) == tags(layout("ntk"))
    if make is flax_writer:
        assert "_hparams_/session_start_info" in found


def test_numbers_that_are_not_finite_are_written(tmp_path):
    writer = tensorboardx_writer(tmp_path)
    hook = NTKHook(lambda w, x: 0 * x @ w, PROBE, every_steps=1, writer=writer, pictures=False)
    hook(0, params=jnp.ones((3, 2)))
    hook.close()
    writer.close()
    assert np.isnan(read(tmp_path)["ntk/condition_number"][1][0][1])


def test_what_a_writer_has_no_method_for_is_not_written(caplog):
    class Scalars:
        """As a user makes one around another service."""

        def __init__(self):
            self.written = []

        def write_scalars(self, step, scalars):
            self.written.append((step, scalars))

    writer = Scalars()
    with NTKHook(f, PROBE, every_steps=1, writer=writer) as hook:
        hook(0, params=PARAMS)
    assert hook.failures == 0
    assert not caplog.records
    ((step, scalars),) = writer.written
    assert step == 0
    assert scalars["ntk/lambda_max"] == hook.latest.spectrum.lambda_max


def test_our_own_writer_has_all_that_the_hook_has(tmp_path):
    writer: FullWriter = tensorboard_writer(tmp_path)
    kinds = typing.get_args(Kind)
    assert all(method_of(writer, kind) for kind in kinds)
    assert not any(method_of(None, kind) for kind in kinds)
    methods = {name for name in vars(FullWriter) | vars(MetricWriter) if not name.startswith("_")}
    assert methods == set(kinds)
    writer.flush()
