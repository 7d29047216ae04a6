"""What the hook costs a training loop: the time of its steps with and without it.

    python -m experiments.benchmark_overhead                               # a CNN, on a CPU
    python -m experiments.benchmark_overhead --network resnet18 --batch 64 --outputs 1000
    python -m experiments.benchmark_overhead --smoke --out /tmp/smoke      # to try the script

Steps of SGD with momentum on made-up images, each waited for by its loss, as a loop does that logs
it; parameters and optimizer are donated. A step takes the milliseconds that `--batch` makes of it
(20 or more, say). The hook measures the traced kernel of `--probe` images every `--every` steps and
writes all that it has, pictures included, to event files. Everything is compiled before the clock
starts. Five ways take turns of `--steps` steps, `--rounds` times and each time in another order, so
that what else the machine does meets all of them:

    none            no hook
    kernel          no hook: the loop runs the kernel's program at the same steps, and waits for it
    hook            as it is
    hook, waited    the loop waits for each measurement, to see what the host thread saves
    hook, bounded   with max_overhead=0.01

A row for each way: the median, the 90th and 99th percentile and the maximum of the milliseconds of
a step, all rounds together; the milliseconds that one kernel adds to the turns of `kernel`; how
many measurements there were; and in per cent of the time of the steps without a hook, the whole
time more (`overhead_percent`, the median over the rounds, and `mean_percent`, of all rounds
together, which rare pictures count in) and what of it is not the kernel's: the time more than
the way `kernel` for as many kernels, the median over the rounds (`beyond_kernel_percent`) and its
standard error (`error_percent`). The bounded hook rests a hundred times as long as a measurement
takes, on a clock that runs in its own turns only: it needs rounds that are longer than that, all
together, and its mean says what it costs.
"""

import argparse
import importlib.util
import math
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments import networks
from experiments.measure import compile_kernel
from experiments.networks import Network
from experiments.record import RESULTS, merge_table
from ntk_train import NTKHook, ntk
from ntk_train.monitor import tensorboard_writer

TABLE = "benchmark_overhead"
KEY = ("network", "outputs", "batch", "probe", "every", "way", "device")
WAYS = ("none", "kernel", "hook", "hook, waited", "hook, bounded")
# The standard error of a median of normal numbers over that of their mean.
_MEDIAN_OVER_MEAN = math.sqrt(math.pi / 2)

NETWORKS: dict[str, Callable[[int], Network]] = {
    "cnn-64": lambda o: networks.cnn(64, o),
    "cnn-tiny": lambda o: networks.cnn(4, o, pixels=8, depth=2),
    "resnet-tiny": networks.resnet_tiny,
    "resnet18": networks.resnet18,
    "resnet50": networks.resnet50,
    "vit-s16": networks.vit_s16,
}


Measure = Callable[[int, float, Any], bool]
"""Measures parameters at a step and a time if it is due; whether it was."""


class Loop:
    """A training loop of one way, which goes on where it stopped.

    Args:
      network: to train.
      batch: images and labels.
      measure: called after each step.
      wait: until what is under way is done; called at the end of a turn, as it belongs to it.
      every: the period of the hook. The first step is half of one, so that no turn ends with a
        kernel.
    """

    def __init__(
        self,
        network: Network,
        batch: tuple[Any, Any],
        measure: Measure,
        wait: Callable[[], object],
        *,
        every: int,
    ) -> None:
        self._batch = batch
        self._measure = measure
        self._wait = wait
        self._every = every
        self._step = every // 2
        self._clock = 0.0  # seconds in its own turns
        self._params = jax.tree.map(jax.numpy.copy, network.params)
        optimizer = optax.sgd(1e-4, momentum=0.9)
        self._opt_state = optimizer.init(self._params)

        def update(params: Any, opt_state: Any, batch: tuple[Any, Any]) -> tuple[Any, Any, Any]:
            def loss(params: Any) -> jax.Array:
                logits = network.f(params, batch[0])
                return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

            value, gradient = jax.value_and_grad(loss)(params)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, value

        self._update = jax.jit(update, donate_argnums=(0, 1))

    def warm_up(self) -> int:
        """Compiles everything, and measures twice; returns how often it did."""
        self._train()
        measurements = 0
        # The first also compares examples. A step that ran would not run again: none above 0.
        for number, t in ((-self._every, -2e9), (0, -1e9)):
            measurements += self._measure(number, t, self._params)
            self._wait()
        self._step = self._every // 2
        return measurements

    def turn(self, steps: int) -> tuple[list[float], float, int]:
        """Trains so many steps.

        Returns:
          The seconds of each, what it measures included, and of all, and how often it measured.
        """
        seconds, begin, measurements = [], time.perf_counter(), 0
        for _ in range(steps):
            start = time.perf_counter()
            self._train()
            measurements += self._measure(self._step, self._clock, self._params)
            seconds.append(time.perf_counter() - start)
            self._clock += seconds[-1]
        self._wait()
        jax.block_until_ready(self._params)
        return seconds, time.perf_counter() - begin, measurements

    def _train(self) -> None:
        self._params, self._opt_state, loss = self._update(
            self._params, self._opt_state, self._batch
        )
        float(loss)
        self._step += 1


def kernel_alone(network: Network, probe: Any, every: int) -> Measure:
    """Runs the kernel's program at every multiple of a period, and waits for it."""
    program = compile_kernel(
        lambda params, x: ntk(network.f, params, x, outputs="trace"), network.params, probe
    )

    def run(step: int, _: float, params: Any) -> bool:
        due = step % every == 0
        if due:
            program.run(params, probe).block_until_ready()
        return due

    return run


def loop_of(
    way: str,
    network: Network,
    batch: tuple[Any, Any],
    probe: tuple[Any, Any],
    folder: str,
    every: int,
) -> Loop:
    """The loop of a way.

    Args:
      way: of `WAYS`.
      network: to train.
      batch: images and labels of each step.
      probe: images and labels of the kernel.
      folder: to write to.
      every: steps from kernel to kernel.
    """
    images, labels = probe
    if way == "none":
        return Loop(network, batch, lambda *_: False, lambda: None, every=every)
    if way == "kernel":
        return Loop(network, batch, kernel_alone(network, images, every), lambda: None, every=every)
    hook = NTKHook(
        network.f,
        images,
        labels=labels,
        every_steps=every,
        writer=_writer(f"{folder}/{way}"),
        max_overhead=0.01 if way == "hook, bounded" else None,
    )

    def begin(step: int, t: float, params: Any) -> bool:
        begun = hook(step, t, params=params)
        if way == "hook, waited":
            hook.wait()
        return begun

    return Loop(network, batch, begin, hook.wait, every=every)


class Times(NamedTuple):
    """Seconds of one way: of each step, and of each turn as a whole; measurements in each turn."""

    steps: list[float]
    turns: list[float]
    measurements: list[int]


def measure(loops: dict[str, Loop], steps: int, rounds: int) -> dict[str, Times]:
    """The ways in turns."""
    times = {way: Times([], [], []) for way in loops}
    ways = list(loops)
    for number in range(rounds):
        first = number % len(ways)
        for way in ways[first:] + ways[:first]:
            seconds, whole, measurements = loops[way].turn(steps)
            times[way].steps.extend(seconds)
            times[way].turns.append(whole)
            times[way].measurements.append(measurements)
            print(f"round {number + 1} {way:14} {1e3 * whole / steps:8.2f} ms a step", flush=True)
    return times


def row(own: Times, plain: Times, kernel: Times) -> dict[str, object]:
    """What the table says of one way."""
    steps = 1e3 * np.asarray(own.steps)
    base, turns = np.asarray(plain.turns), np.asarray(own.turns)
    a_kernel = (np.asarray(kernel.turns) - base) / np.maximum(kernel.measurements, 1)
    more = 100 * (turns - base) / base
    beyond = 100 * (turns - base - np.asarray(own.measurements) * a_kernel) / base
    error = _MEDIAN_OVER_MEAN * float(np.std(beyond)) / math.sqrt(len(beyond))
    return {
        **{
            name: f"{value:.4g}"
            for name, value in zip(
                ("median_ms", "p90_ms", "p99_ms", "max_ms"),
                np.percentile(steps, [50, 90, 99, 100]),
                strict=True,
            )
        },
        "kernel_ms": f"{1e3 * np.median(a_kernel):.4g}",
        "measurements": sum(own.measurements),
        "overhead_percent": f"{np.median(more):.2f}",
        "mean_percent": f"{100 * (turns.sum() / base.sum() - 1):.2f}",
        "beyond_kernel_percent": f"{np.median(beyond):.2f}",
        "error_percent": f"{error:.2f}",
    }


def _writer(folder: str) -> Any:
    """Of event files."""
    if any(importlib.util.find_spec(name) is None for name in ("clu", "tensorflow")):
        return tensorboard_writer(folder)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # announces itself otherwise
    import tensorflow as tf
    from clu import metric_writers

    tf.config.set_visible_devices([], "GPU")  # it would take most of the memory from JAX
    return metric_writers.create_default_writer(folder)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="cnn-64", choices=NETWORKS)
    parser.add_argument("--outputs", type=int, default=10, help="classes of the network")
    parser.add_argument("--batch", type=int, default=8, help="images of a training step")
    parser.add_argument("--probe", type=int, default=64, help="images in the kernel")
    parser.add_argument("--every", type=int, default=100, help="steps from kernel to kernel")
    parser.add_argument("--steps", type=int, default=200, help="in each turn")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each way")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the table")
    parser.add_argument("--smoke", action="store_true", help="tiny, to try the script")
    arguments = parser.parse_args()
    if arguments.smoke:
        if arguments.out == RESULTS:
            parser.error("--smoke needs --out: its numbers are no results")
        tiny = {"network": "cnn-tiny", "batch": 4, "probe": 6, "every": 5, "steps": 10, "rounds": 2}
        vars(arguments).update(tiny)
    return arguments


def main() -> None:
    """Measures, prints and keeps."""
    arguments = _parse()
    network = NETWORKS[arguments.network](arguments.outputs)
    images, probe = network.inputs(arguments.batch), network.inputs(arguments.probe)
    batch = images, jax.numpy.arange(arguments.batch) % arguments.outputs
    labels = np.arange(arguments.probe) % arguments.outputs
    with tempfile.TemporaryDirectory() as folder:
        loops = {
            way: loop_of(way, network, batch, (probe, labels), folder, arguments.every)
            for way in WAYS
        }
        for way, loop in loops.items():
            assert loop.warm_up() == (0 if way == "none" else 2)
        times = measure(loops, arguments.steps, arguments.rounds)
    names = ("network", "outputs", "batch", "probe", "every", "steps", "rounds")
    common = {name: getattr(arguments, name) for name in names}
    rows = [
        {
            **common,
            "way": way,
            "device": jax.devices()[0].device_kind,
            **row(own, times["none"], times["kernel"]),
            "load": f"{os.getloadavg()[0]:.1f}",
        }
        for way, own in times.items()
    ]
    merge_table(TABLE, rows, KEY, arguments.out)
    for entry in rows:
        print("  ".join(f"{name}={value}" for name, value in entry.items()))


if __name__ == "__main__":
    main()
