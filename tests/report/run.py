"""A run without a network: event files as the hook and a trainer write them."""

import json

import numpy as np

from ntk_train.monitor import tensorboard_writer
from ntk_train.monitor.tags import tag_of, tagged
from ntk_train.spectrum import ReferenceKernels, diagnose

CONVENTION = "| convention | value |\n|---|---|\n| outputs | trace <b> |\n| num examples | 6 |"


def kernel_at(step):
    jacobian = np.random.default_rng(0).normal(size=(6, 9))
    jacobian[:, 0] += step
    return (jacobian @ jacobian.T).astype(np.float32)


def write_steps(writer, steps, *, prefix="ntk", failures=0, picture=True):
    """Writes the numbers of `kernel_at` and of training for these steps."""
    references = ReferenceKernels.start(kernel_at(0), 0)
    for step in steps:
        kernel = kernel_at(step)
        found = diagnose(
            kernel,
            labels=np.arange(6) % 2,
            layers={"Dense_0": kernel / 4, "Block/Dense_1": 3 * kernel / 4},
            references=references,
            step=step,
        )
        own = {"seconds": 0.1, "failures": failures, "time_share": 0.01}
        own = {tag_of(prefix, name): value for name, value in own.items()}
        writer.write_scalars(step, tagged(prefix, found) | own)
        writer.write_scalars(step, {"train_loss": 2.0 / (step + 1), "eval_accuracy": step / 100})
        logs = np.log10(found.spectrum.eigenvalues)
        writer.write_histograms(step, {f"{prefix}/log10_eigenvalues": logs})
        if picture:
            image = np.full((1, 8, 12, 3), step % 256, np.uint8)
            writer.write_images(step, {f"{prefix}/spectrum": image})
    writer.write_texts(0, {f"{prefix}/convention": CONVENTION})


def make_run(folder, steps=(0, 5, 10), **kwargs):
    """Writes a run with a config and returns its folder."""
    writer = tensorboard_writer(folder)
    write_steps(writer, steps, **kwargs)
    writer.close()
    config = {"model": {"name": "cnn", "kwargs": {}}, "num_train_steps": 10}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
