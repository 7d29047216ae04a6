"""What the hook writes through clu's writer, read back from TensorBoard's event files."""

import jax.numpy as jnp
import numpy as np
import pytest
from clu import metric_writers
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util

from ntk_train import NTKHook


def test_scalars_histogram_picture_and_convention_are_in_the_files(tmp_path):
    probe = jnp.sin(jnp.arange(12.0)).reshape(4, 3)
    writer = metric_writers.create_default_writer(str(tmp_path))
    hook = NTKHook(lambda w, x: jnp.tanh(x @ w), probe, every_steps=2, writer=writer)
    for step in range(3):
        hook(step, params=jnp.ones((3, 2)) * (step + 1) / 5)
    hook.close()
    writer.close()

    events = event_accumulator.EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    tags = set(events.Tags()["tensors"])
    metrics = {f"ntk/{name}" for name in hook.latest.spectrum.scalars()}
    assert metrics | {"ntk/seconds", "ntk/failures", "ntk/log10_eigenvalues"} <= tags
    found = events.Tensors("ntk/lambda_max")
    assert [event.step for event in found] == [0, 2]
    value = tensor_util.make_ndarray(found[-1].tensor_proto)
    assert value == pytest.approx(hook.latest.spectrum.lambda_max)
    (_, _, png), *_ = [
        np.atleast_1d(tensor_util.make_ndarray(event.tensor_proto))
        for event in events.Tensors("ntk/spectrum")
    ]
    assert png.startswith(b"\x89PNG")
    (text,) = events.Tensors("ntk/convention")
    text = tensor_util.make_ndarray(text.tensor_proto)
    assert b"| num outputs | 2 |" in np.atleast_1d(text)[0]
