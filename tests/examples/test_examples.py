"""The hook in loops of several libraries: each example runs, and its kernel is that of `ntk`."""

import pathlib
import runpy

import jax
import numpy as np
import pytest

from ntk_train import kernel_spectrum, ntk
from ntk_train.report import read_run

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
NEEDS = {
    "linen_digits": ["clu", "sklearn"],
    "nnx_digits": ["sklearn", "tensorboardX"],
    "equinox_digits": ["equinox", "sklearn", "tensorboardX"],
    "haiku_digits": ["haiku", "sklearn", "tensorboardX"],
    "plain_jax": ["tensorboardX"],
}


@pytest.mark.parametrize("name", NEEDS)
def test_the_last_kernel_is_that_of_the_final_parameters(name, tmp_path):
    for module in NEEDS[name]:
        pytest.importorskip(module)
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    hook, f, params, probe = main(tmp_path, num_steps=4, every_steps=2)
    assert hook.failures == 0
    assert hook.latest.step == 4
    outputs = hook.convention.outputs
    kernel = np.asarray(jax.jit(lambda params: ntk(f, params, probe, outputs=outputs))(params))
    assert np.isfinite(kernel).all()
    expected = kernel_spectrum(kernel).lambda_max
    assert expected > 0
    assert hook.latest.spectrum.lambda_max == pytest.approx(expected, rel=1e-5)
    logged = read_run(tmp_path).scalars["ntk/lambda_max"]
    assert logged.steps.tolist() == [2, 4]
    assert logged.last == pytest.approx(expected, rel=1e-5)


def test_every_example_is_tested_short_and_marks_at_most_five_lines():
    files = {path.stem: path.read_text() for path in EXAMPLES.glob("*.py")}
    assert set(files) == set(NEEDS)
    for name, text in files.items():
        assert len(text.splitlines()) <= 60, name
        assert 3 <= text.count("  # NTK\n") <= 5, name
