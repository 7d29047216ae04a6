"""The certificate of a probe's kernels: compiled and run beside them, and never in their way.

What fails here, as for want of memory for one backward pass over the probe, is said once, and the
kernel is measured without its certificate.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import jax

from ntk_train._types import ApplyFn, PyTree
from ntk_train.kernel.certificate import Certificate, Check, Pass, Product
from ntk_train.kernel.checked import blame
from ntk_train.kernel.failed_call import bound
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.tangent_kernel import compute

_log = logging.getLogger(__name__)


class Certifier:
    """Compares the kernels of one program with plain derivatives.

    Args:
      f: `f(params, x)`, or `f(params, x, model_state)` where there is a model_state.
      probe: the inputs.
      options: of the kernel.
      unflatten: from a program's arrays to params and model_state.
      arrays: of the shapes to come.
    """

    def __init__(
        self,
        f: ApplyFn,
        probe: PyTree,
        options: KernelOptions,
        unflatten: Callable[[list[jax.Array]], tuple[PyTree, PyTree]],
        arrays: list[jax.Array],
    ) -> None:
        self._probe = probe
        self._check: Check | None = None
        self._lowered: Any = None
        self._product: Future | None = None

        def product(arrays: list[jax.Array], probe: PyTree, a_pass: Pass) -> Product:
            params, model_state = unflatten(arrays)
            assert self._check is not None
            return self._check.product(bound(f, model_state), params, probe, None, a_pass)

        try:
            params, model_state = unflatten(arrays)
            self._check = Check(bound(f, model_state), params, probe, None, options)
            self._lowered = jax.jit(product).lower(arrays, probe, self._check.passes[0])
        except Exception as error:
            self._give_up(error)

    @property
    def futures(self) -> list[Future]:
        """What is being compiled."""
        return [] if self._product is None else [self._product]

    def compile(self, executor: Executor) -> None:
        """Compiles on a thread of the executor."""
        if self._lowered is not None:
            self._product = executor.submit(self._lowered.compile)
            self._lowered = None

    def start(self, arrays: list[jax.Array]) -> list[Product] | None:
        """Dispatches the derivatives at some parameters; None where that is not possible."""
        if self._product is None or self._check is None:
            return None
        try:
            product = self._product.result()
            return [product(arrays, self._probe, a_pass) for a_pass in self._check.passes]
        except Exception as error:
            self._give_up(error)
            return None

    def certificate(self, kernels: Any, products: list[Product]) -> Certificate | None:
        """Of a kernel on the host, or of its parts by layer."""
        if self._check is None:
            return None
        try:
            return self._check.compare(kernels, jax.device_get(products))
        except Exception as error:
            self._give_up(error)
            return None

    def _give_up(self, error: Exception) -> None:
        self._product = self._check = None
        _log.warning(
            "The kernel is measured without being compared with plain derivatives: %s: %s",
            type(error).__name__,
            error,
        )


def why_wrong(
    certificate: Certificate,
    f: ApplyFn,
    probe: PyTree,
    options: KernelOptions,
    params: PyTree,
    model_state: PyTree,
) -> str:
    """Says where a kernel is wrong, which computes it once more, parameter by parameter."""

    def kernel(options: KernelOptions) -> Any:
        return compute(f, params, probe, None, options, model_state)

    return blame(kernel, certificate, bound(f, model_state), params, probe, None, options)
