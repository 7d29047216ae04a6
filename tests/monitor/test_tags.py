"""Tags: what is written is read back apart, whatever the layers and probes are called."""

import re

import numpy as np
import pytest

from ntk_train import NTKHook
from ntk_train.monitor import tags
from ntk_train.spectrum import CrossEntropy, Training, diagnose
from ntk_train.spectrum.quantities import CATALOGUE
from tests.monitor.test_hook import PARAMS, PROBE, Recorder, f

KERNEL = np.diag([3.0, 2.0, 1.0])
LAYERS = ["Dense_0", "Block_0/Dense_0", "layer/layers", "a_layers/lambda_max"]


@pytest.mark.parametrize("prefix", ["ntk", "ntk_test", "runs/one", "a.b"])
def test_prefix_layer_and_name_are_read_back(prefix):
    found = diagnose(KERNEL, layers={layer: KERNEL / len(LAYERS) for layer in LAYERS})
    other = tags.tagged(tags.prefix_of(prefix, "other"), found)
    written = {"loss": 1.0, **tags.tagged(prefix, found), **other}
    assert tags.by_name(prefix, written) == found.of_kernel()
    assert tags.by_layer(prefix, written) == {
        layer: numbers.scalars() for layer, numbers in found.layers.items()
    }
    assert tags.prefixes(written) == (prefix, f"{prefix}_other")
    of_kernel = tags.pattern(prefix, ["lambda_max", "trace"])
    matched = {tag for tag in written if re.match(of_kernel, tag)}
    both = (prefix, f"{prefix}_other")
    assert matched >= {tags.tag_of(of, name) for of in both for name in ("lambda_max", "trace")}


def test_the_hook_writes_numbers_of_the_catalogue_alone_and_all_of_them():
    writer = Recorder()
    hook = NTKHook(
        f,
        PROBE,
        labels=np.array([0, 1, 0, 1, 1, 0]),
        outputs="full",
        training=Training(CrossEntropy(), batch_size=4),
        per_layer=True,
        every_steps=1,
        writer=writer,
        pictures=False,
    )
    with hook:
        for step in range(2):
            hook(step, params=PARAMS, learning_rate=0.1)
    written = {tag for _, scalars in writer.of("write_scalars") for tag in scalars}
    want = {
        tags.tag_of("ntk", entry.name, layer)
        for entry in CATALOGUE
        for layer in (("w", "v") if entry.of_layer else (None,))
    }
    assert written == want
