"""The hook: in anyone's training loop, the kernel of a fixed probe batch, logged as it changes.

    hook = NTKHook(f, probe, every_steps=100, writer=writer)
    for step, batch in enumerate(batches):
        state = train_step(state, batch)
        hook(step, params=state.params)

It compiles once, on a thread beside the training steps, computes the kernel at the parameters of
the step, takes its spectrum in float64 on the host and writes `ntk/<metric>`. Whatever goes wrong
is logged and counted, and training goes on.
"""

import dataclasses
import importlib.util
import logging
import math
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._types import ApplyFn, ParamFilter, PyTree
from ntk_train.errors import KernelInputError
from ntk_train.kernel import ntk
from ntk_train.kernel.tangent_kernel import resolve
from ntk_train.monitor.adapters import LinenFn
from ntk_train.monitor.convention import Convention
from ntk_train.monitor.schedule import Schedule
from ntk_train.spectrum import Spectrum, kernel_spectrum

_log = logging.getLogger(__name__)

# Outputs of an example computed alone and in the batch differ by rounding only, if examples are
# independent; TF32 products differ by about 1e-3, BatchNorm in train mode by about 1.
_COUPLING_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """What the hook found at one step.

    Attributes:
      step: the step of the loop.
      kernel: the kernel on the host, [N, N] or [N, O, N, O].
      spectrum: its eigenvalues and what follows from them.
      seconds: wall-clock time of the kernel and its spectrum, without compilation.
    """

    step: int
    kernel: np.ndarray
    spectrum: Spectrum
    seconds: float


class NTKHook:
    """Logs the tangent kernel's spectrum on a probe batch while a network trains.

    Attributes:
      convention: the choices behind the numbers, None until the first call or `prepare`.
      latest: the last `Measurement`, None before the first.
      failures: how many measurements failed, and were survived.

    Args:
      f: `f(params, x)`, or `f(params, x, model_state)` if the hook is called with a model_state.
        `ntk_train.linen_fn(model, train=False)` makes one.
      probe: N inputs with the examples on axis 0, fixed for the run and never augmented.
      writer: anything with the methods of clu's `MetricWriter`; None keeps to `latest`.
      every_steps: run at every multiple of this.
      on_steps: run at each of these steps.
      every_secs: run whenever so many seconds have passed.
      last_step: run at this step too.
      outputs: as in `ntk_train.ntk`, square kernels only: "full", "trace", "sum" or one chosen
        logit for each probe input.
      implementation: as in `ntk_train.ntk`.
      batched: as in `ntk_train.ntk`; False for BatchNorm in train mode.
      precision: as in `ntk_train.ntk`.
      param_filter: as in `ntk_train.ntk`.
      prefix: the tags are `<prefix>/lambda_max` and so on.
      pictures: whether to draw the spectrum; needs matplotlib, and is skipped without it.
      write_hparams: whether to write the convention as hparams too. False for a loop that merges
        `convention.hparams()` into its own, as most writers take them once.
      max_failures: after so many failures in a row the hook gives up, and says so.

    Raises:
      KernelInputError: an argument that could not work at any step.
    """

    def __init__(
        self,
        f: ApplyFn,
        probe: PyTree,
        *,
        writer: Any = None,
        every_steps: int | None = None,
        on_steps: Collection[int] = (),
        every_secs: float | None = None,
        last_step: int | None = None,
        outputs: Any = "trace",
        implementation: str = "auto",
        batched: bool = True,
        precision: str | None = "highest",
        param_filter: ParamFilter | None = None,
        prefix: str = "ntk",
        pictures: bool = True,
        write_hparams: bool = True,
        max_failures: int = 3,
    ) -> None:
        self._schedule = Schedule(
            every_steps=every_steps, on_steps=on_steps, every_secs=every_secs, last_step=last_step
        )
        if isinstance(outputs, str) and outputs == "diagonal":
            msg = (
                "outputs='diagonal' is no square kernel and has no spectrum; use 'full' or 'trace'."
            )
            raise KernelInputError(msg)
        self._f = f
        self._probe = _checked_probe(probe)
        self._writer = writer
        self._kernel_options: dict[str, Any] = {
            "outputs": outputs,
            "implementation": implementation,
            "batched": batched,
            "precision": precision,
            "param_filter": param_filter,
        }
        self._prefix = prefix
        self._pictures = pictures and importlib.util.find_spec("matplotlib") is not None
        if pictures and not self._pictures:
            _log.info("No pictures of the spectrum: pip install 'ntk_train[plot]' for them.")
        self._write_hparams = write_hparams
        self._max_failures = max_failures
        self._failures_in_a_row = 0
        self._compiled: Future | None = None
        self._compiled_for: Any = None
        self._announced = False
        self.convention: Convention | None = None
        self.latest: Measurement | None = None
        self.failures = 0

    def __call__(
        self,
        step: int,
        t: float | None = None,
        *,
        params: PyTree,
        model_state: Mapping[str, PyTree] | None = None,
    ) -> bool:
        """Runs if it is due.

        Args:
          step: the step of the loop.
          t: the time in seconds, by default `time.time()`.
          params: the parameters to differentiate, without running statistics.
          model_state: what else f needs (running statistics), held constant.

        Returns:
          Whether a measurement was made and written. Never raises an `Exception`.
        """
        if self._gave_up:
            return False
        due = self._schedule.due(step, t)
        try:
            if due or self._compiled is None:  # so that it compiles beside the first steps
                self._prepare_for(params, model_state)
            if not due:
                return False
            self.latest = self._measure(step, params, model_state)
            self._write(self.latest)
        except Exception as error:  # a diagnostic never ends a training run
            self._survive(step, error)
            return False
        self._failures_in_a_row = 0
        return True

    def prepare(
        self, *, params: PyTree, model_state: Mapping[str, PyTree] | None = None
    ) -> Convention:
        """Traces the kernel and starts to compile it, which `__call__` does otherwise.

        Here, before training, what is wrong with the arguments raises.

        Returns:
          The convention of the numbers to come.

        Raises:
          KernelInputError, DtypeError: as `ntk_train.ntk`.
        """
        self._prepare_for(params, model_state)
        assert self.convention is not None
        return self.convention

    def close(self) -> None:
        """Waits for a compilation under way and flushes the writer, which stays the caller's."""
        if self._compiled is not None and not self._compiled.cancel():
            self._compiled.exception()
        if self._writer is not None:
            self._writer.flush()

    @property
    def _gave_up(self) -> bool:
        return self._failures_in_a_row >= self._max_failures

    def _kernel(
        self, params: PyTree, model_state: Any, probe: PyTree
    ) -> tuple[jax.Array, jax.Array]:
        """The kernel, and by how much the outputs of an example depend on the other examples."""
        f = self._bind(model_state)
        options = self._kernel_options | {"implementation": self._implementation}
        kernel = ntk(f, params, probe, **options)
        if not self._kernel_options["batched"]:
            return kernel, jnp.zeros(())
        together = jax.tree.leaves(f(params, probe))
        alone = jax.vmap(lambda x: f(params, jax.tree.map(lambda leaf: leaf[None], x)))(probe)
        differences = [
            jnp.max(jnp.abs(y - z.reshape(y.shape))) / jnp.max(jnp.abs(y))
            for y, z in zip(together, jax.tree.leaves(alone), strict=True)
        ]
        return kernel, jnp.max(jnp.stack(differences))

    def _bind(self, model_state: Any) -> ApplyFn:
        if not jax.tree.leaves(model_state):
            return self._f
        return lambda params, x: self._f(params, x, model_state)

    def _prepare_for(self, params: PyTree, model_state: Any) -> None:
        signature = _signature((params, model_state))
        if self._compiled_for == signature:
            return
        if self._compiled_for is not None:
            _log.warning(
                "Shapes, dtypes or shardings of params changed: the kernel is compiled anew."
            )
        f = self._bind(model_state)
        param_filter = self._kernel_options["param_filter"]
        problem, self._implementation = resolve(f, params, self._probe, **self._kernel_options)
        lowered = jax.jit(self._kernel).lower(params, model_state, self._probe)
        kernel, _ = lowered.out_info
        y = jax.eval_shape(f, params, self._probe)
        self.convention = Convention(
            function=str(self._f) if isinstance(self._f, LinenFn) else _name(self._f),
            outputs=_outputs_name(self._kernel_options["outputs"]),
            batch_norm="eval (examples independent)" if problem.batched else "train (coupled)",
            parameters=_name(param_filter) if param_filter else "all of params",
            num_parameters=sum(leaf.size for leaf in problem.theta),
            num_examples=kernel.shape[0],
            num_outputs=sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(y)),
            param_dtype=", ".join(sorted({str(leaf.dtype) for leaf in problem.theta})),
            kernel_dtype=str(kernel.dtype),
            precision=str(problem.precision),
            implementation=self._implementation,
        )
        # XLA compiles without Python's lock: training steps go on meanwhile.
        executor = ThreadPoolExecutor(1, thread_name_prefix="ntk-compile")
        self._compiled = executor.submit(lowered.compile)
        executor.shutdown(wait=False)
        self._compiled_for = signature

    def _measure(self, step: int, params: PyTree, model_state: Any) -> Measurement:
        assert self._compiled is not None
        compiled = self._compiled.result()
        start = time.perf_counter()
        kernel, coupling = jax.device_get(compiled(params, model_state, self._probe))
        if coupling > _COUPLING_TOLERANCE and self.latest is None:
            _log.warning(
                "The outputs of a probe input change by %.2g relative to the largest when it is "
                "computed alone: examples interact (BatchNorm in train mode?), but batched=True "
                "takes them one by one. Switch f to eval mode, or give the hook batched=False.",
                coupling,
            )
        spectrum = kernel_spectrum(kernel)
        return Measurement(step, kernel, spectrum, time.perf_counter() - start)

    def _write(self, found: Measurement) -> None:
        if self._writer is None:
            return
        assert self.convention is not None
        if not self._announced:
            self._writer.write_texts(
                found.step, {f"{self._prefix}/convention": self.convention.describe()}
            )
            if self._write_hparams:
                self._writer.write_hparams(self.convention.hparams(self._prefix))
            self._announced = True
        scalars = found.spectrum.scalars() | {"seconds": found.seconds, "failures": self.failures}
        self._writer.write_scalars(found.step, self._tags(scalars))
        positive = found.spectrum.eigenvalues[found.spectrum.eigenvalues > 0]
        if positive.size:
            self._writer.write_histograms(
                found.step, self._tags({"log10_eigenvalues": np.log10(positive)})
            )
        if self._pictures:
            from ntk_train.monitor.pictures import spectrum_picture

            picture = spectrum_picture(found.spectrum, f"step {found.step}")
            self._writer.write_images(found.step, self._tags({"spectrum": picture}))

    def _tags(self, values: dict[str, Any]) -> dict[str, Any]:
        return {f"{self._prefix}/{name}": value for name, value in values.items()}

    def _survive(self, step: int, error: Exception) -> None:
        """Logs and counts a failure; training goes on."""
        self.failures += 1
        self._failures_in_a_row += 1
        remedy = ""
        if "RESOURCE_EXHAUSTED" in str(error):
            remedy = " Out of memory: use fewer probe inputs, outputs='trace' or a lower precision."
        _log.warning(
            "No kernel at step %d (failure %d, training goes on): %s: %s%s",
            step,
            self.failures,
            type(error).__name__,
            error,
            remedy,
        )
        if self._gave_up:
            _log.warning("The hook gives up after %d failures in a row.", self._max_failures)
        if self._writer is not None:
            try:
                self._writer.write_scalars(step, self._tags({"failures": self.failures}))
            except Exception as writer_error:  # the writer may be what failed
                _log.warning("The count of failures could not be written: %s", writer_error)


def _checked_probe(probe: PyTree) -> PyTree:
    leaves = jax.tree.leaves(probe)
    if not leaves or any(np.ndim(leaf) == 0 or np.shape(leaf)[0] == 0 for leaf in leaves):
        msg = (
            f"probe has leaves of shapes {[np.shape(leaf) for leaf in leaves]}; expected arrays "
            "with at least one example on axis 0."
        )
        raise KernelInputError(msg)
    probe = jax.tree.map(jnp.asarray, probe)
    for leaf in jax.tree.leaves(probe):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.all(jnp.isfinite(leaf))):
            msg = "probe holds NaN or infinite numbers; every kernel would be NaN."
            raise KernelInputError(msg)
    return probe


def _signature(tree: PyTree) -> Any:
    """What a compiled program is specialised to: structure, shapes, dtypes, placement."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [
        (jnp.shape(leaf), jnp.result_type(leaf), getattr(leaf, "sharding", None)) for leaf in leaves
    ]


def _name(f: Any) -> str:
    return getattr(f, "__qualname__", type(f).__name__)


def _outputs_name(outputs: Any) -> str:
    return outputs if isinstance(outputs, str) else "chosen logits"
