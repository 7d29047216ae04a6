"""What the hook costs a training loop: the time of its steps with and without it.

    python -m experiments.benchmark_overhead                               # a CNN, on a CPU
    python -m experiments.benchmark_overhead --network resnet18 --batch 64 --outputs 1000
    python -m experiments.benchmark_overhead --smoke --out /tmp/smoke      # to try the script

Steps of SGD with momentum on made-up images, each waited for by its loss, as a loop does that logs
it; parameters and optimizer are donated. A step takes the milliseconds that `--batch` makes of it
(20 or more, say). The hook measures the traced kernel of `--probe` images every `--every` steps and
writes all that it has, pictures included, through clu if that is installed. Everything is compiled
before the clock starts. Four ways take turns of `--steps` steps, `--rounds` times, so that what
else the machine does meets all of them:

    none            no hook
    hook            as it is
    hook, waited    the loop waits for each measurement, to see what the host thread saves
    hook, bounded   with max_overhead=0.01

A row for each way: the median, the 90th and 99th percentile and the maximum of the milliseconds of
a step, all rounds together; the kernel's own milliseconds, the median of runs by itself; how many
measurements there were; and in per cent of the time of the steps without a hook, the median over
the rounds of the whole time more (`overhead_percent`) and of what of it is not the kernel's
(`beyond_kernel_percent`). An overhead of one per cent shows where a round of `none` varies by less:
see `spread_percent`, the range of its rounds. The bounded hook rests a hundred times as long as a
measurement takes, on a clock that runs in its own turns only: it needs rounds that are longer than
that, all together.
"""

import argparse
import importlib.util
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments import networks
from experiments.measure import compile_kernel, median_seconds
from experiments.networks import Network
from experiments.record import RESULTS, merge_table
from ntk_train import NTKHook, ntk

TABLE = "benchmark_overhead"
KEY = ("network", "outputs", "batch", "probe", "every", "way", "device")
WAYS = ("none", "hook", "hook, waited", "hook, bounded")

NETWORKS: dict[str, Callable[[int], Network]] = {
    "cnn-64": lambda o: networks.cnn(64, o),
    "cnn-tiny": lambda o: networks.cnn(4, o, pixels=8, depth=2),
    "resnet-tiny": networks.resnet_tiny,
    "resnet18": networks.resnet18,
    "resnet50": networks.resnet50,
    "vit-s16": networks.vit_s16,
}


class Loop:
    """A training loop of one way, which goes on where it stopped.

    Args:
      network: to train.
      hook: or None.
      batch: images and labels.
      waits: whether it waits for each measurement.
      every: the period of the hook. The first step is half of one, so that no turn ends with a
        kernel.
    """

    def __init__(
        self,
        network: Network,
        hook: NTKHook | None,
        batch: tuple[Any, Any],
        *,
        waits: bool,
        every: int,
    ) -> None:
        self._hook = hook
        self._batch = batch
        self._waits = waits
        self._every = every
        self._step = every // 2
        self._clock = 0.0  # seconds in its own turns
        self.measurements = 0
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

    def warm_up(self) -> None:
        """Compiles everything, and measures twice."""
        self._train()
        if self._hook is not None:
            # The first also compares examples. A step that ran would not run again: none above 0.
            for number, t in ((-self._every, -2e9), (0, -1e9)):
                assert self._hook(number, t, params=self._params)
                self._hook.wait()
        self._step = self._every // 2

    def turn(self, steps: int) -> tuple[list[float], float]:
        """Trains so many steps; the seconds of each, the hook's call included, and of all."""
        seconds, begin = [], time.perf_counter()
        for _ in range(steps):
            start = time.perf_counter()
            self._train()
            if self._hook is not None:
                self.measurements += self._hook(self._step, self._clock, params=self._params)
                if self._waits:
                    self._hook.wait()
            seconds.append(time.perf_counter() - start)
            self._clock += seconds[-1]
        if self._hook is not None:  # what is under way belongs to this turn
            self._hook.wait()
        jax.block_until_ready(self._params)
        return seconds, time.perf_counter() - begin

    def _train(self) -> None:
        self._params, self._opt_state, loss = self._update(
            self._params, self._opt_state, self._batch
        )
        float(loss)
        self._step += 1


class Times(NamedTuple):
    """Seconds of one way: of each step, and of each turn as a whole."""

    steps: list[float]
    turns: list[float]


def measure(loops: dict[str, Loop], steps: int, rounds: int) -> dict[str, Times]:
    """The ways in turns."""
    times = {way: Times([], []) for way in loops}
    for number in range(rounds):
        for way, loop in loops.items():
            seconds, whole = loop.turn(steps)
            times[way].steps.extend(seconds)
            times[way].turns.append(whole)
            print(f"round {number + 1} {way:14} {1e3 * whole / steps:8.2f} ms a step", flush=True)
    return times


def row(
    way: str, times: dict[str, Times], loop: Loop, kernel: float, rounds: int
) -> dict[str, object]:
    """What the table says of one way; `kernel` is the seconds of the kernel by itself."""
    own, plain = times[way], times["none"]
    more = [100 * (a - b) / b for a, b in zip(own.turns, plain.turns, strict=True)]
    kernels = 100 * kernel * loop.measurements / rounds / statistics.median(plain.turns)
    quantiles = np.percentile(1e3 * np.asarray(own.steps), [50, 90, 99, 100])
    spread = 100 * (max(plain.turns) - min(plain.turns)) / statistics.median(plain.turns)
    return {
        **dict(zip(("median_ms", "p90_ms", "p99_ms", "max_ms"), _texts(quantiles), strict=True)),
        "kernel_ms": f"{1e3 * kernel:.4g}",
        "measurements": loop.measurements,
        "overhead_percent": f"{statistics.median(more):.2f}",
        "beyond_kernel_percent": f"{statistics.median(more) - kernels:.2f}",
        "spread_percent": f"{spread:.2f}",
    }


def _texts(numbers: Any) -> list[str]:
    return [f"{number:.4g}" for number in numbers]


def _writer(folder: str) -> Any:
    if importlib.util.find_spec("clu") is None or importlib.util.find_spec("tensorflow") is None:
        return None
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
    images = network.inputs(arguments.batch)
    batch = images, jax.numpy.arange(arguments.batch) % arguments.outputs
    probe = network.inputs(arguments.probe)
    program = compile_kernel(
        lambda params, x: ntk(network.f, params, x, outputs="trace"), network.params, probe
    )
    kernel, _ = median_seconds(lambda: program.run(network.params, probe))
    with tempfile.TemporaryDirectory() as folder:
        loops = {}
        for way in WAYS:
            hook = None
            if way != "none":
                hook = NTKHook(
                    network.f,
                    probe,
                    labels=np.arange(arguments.probe) % arguments.outputs,
                    every_steps=arguments.every,
                    writer=_writer(f"{folder}/{way}"),
                    max_overhead=0.01 if way == "hook, bounded" else None,
                )
            loops[way] = Loop(
                network, hook, batch, waits=way == "hook, waited", every=arguments.every
            )
            loops[way].warm_up()
        times = measure(loops, arguments.steps, arguments.rounds)
    names = ("network", "outputs", "batch", "probe", "every", "steps", "rounds")
    common = {name: getattr(arguments, name) for name in names}
    rows = [
        {
            **common,
            "way": way,
            "device": jax.devices()[0].device_kind,
            **row(way, times, loop, kernel, arguments.rounds),
            "load": f"{os.getloadavg()[0]:.1f}",
        }
        for way, loop in loops.items()
    ]
    merge_table(TABLE, rows, KEY, arguments.out)
    for entry in rows:
        print("  ".join(f"{name}={value}" for name, value in entry.items()))


if __name__ == "__main__":
    main()
