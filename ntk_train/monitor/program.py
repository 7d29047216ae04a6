"""The kernel of a probe as a program: traced once, compiled beside the training steps."""

import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._types import ApplyFn, KernelProblem, PyTree
from ntk_train.kernel import ntk
from ntk_train.kernel.tangent_kernel import resolve
from ntk_train.monitor.adapters import LinenFn
from ntk_train.monitor.convention import Convention

# Relative rounding error of a product where the accelerator rounds its factors. CPUs do not.
_ROUNDED_FACTORS = {"default": 2.0**-11, "tensorfloat32": 2.0**-11, "bfloat16": 2.0**-8}


class KernelProgram:
    """The kernel on a probe, for parameters of the shapes it was made for.

    Attributes:
      signature: of what it was made for, see `signature`.
      convention: the choices behind its numbers.
      eps: relative rounding error of an entry of the kernel, for the noise floor.

    Args:
      f: `f(params, x)`, or `f(params, x, model_state)` where there is a model_state.
      probe: the inputs.
      options: keyword arguments of `ntk_train.ntk`.
      params: parameters to differentiate.
      model_state: what else f needs, or None.

    Raises:
      KernelInputError, DtypeError: as `ntk_train.ntk`.
    """

    def __init__(
        self,
        f: ApplyFn,
        probe: PyTree,
        options: Mapping[str, Any],
        params: PyTree,
        model_state: PyTree,
    ) -> None:
        arrays, static, treedef = _split((params, model_state))
        self.signature = signature((params, model_state))
        self._probe = probe

        def bind(arrays: list[jax.Array]) -> tuple[ApplyFn, PyTree]:
            rest = iter(arrays)
            leaves = [next(rest) if leaf is _ARRAY else leaf for leaf in static]
            params, model_state = jax.tree.unflatten(treedef, leaves)
            if not jax.tree.leaves(model_state):
                return f, params
            return (lambda params, x: f(params, x, model_state)), params

        bound, params = bind(arrays)
        resolved, _ = resolve(bound, params, probe, **options)
        problem, name = resolved.problem, resolved.implementation

        def kernel(arrays: list[jax.Array], probe: PyTree) -> jax.Array:
            bound, params = bind(arrays)
            return ntk(bound, params, probe, **{**options, "implementation": name})

        lowered = jax.jit(kernel).lower(arrays, probe)
        coupling = None
        if options["batched"]:
            coupling = jax.jit(lambda arrays, probe: _coupling(*bind(arrays), probe)).lower(
                arrays, probe
            )
        outputs = jax.tree.leaves(jax.eval_shape(lambda probe: bound(params, probe), probe))
        self.convention = _convention(f, problem, name, options, lowered.out_info, outputs)
        self.eps = _rounding(problem, lowered.out_info, outputs)
        # XLA compiles without Python's lock: training steps go on meanwhile.
        executor = ThreadPoolExecutor(1, thread_name_prefix="ntk-compile")
        self._kernel = executor.submit(lowered.compile)
        self._coupling = None if coupling is None else executor.submit(coupling.compile)
        executor.shutdown(wait=False)

    def __call__(self, params: PyTree, model_state: PyTree) -> tuple[np.ndarray, float]:
        """The kernel on the host, and the seconds that it took, without those of pending steps."""
        compiled = self._kernel.result()
        arrays, _, _ = _split((params, model_state))
        jax.block_until_ready(arrays)
        start = time.perf_counter()
        return jax.device_get(compiled(arrays, self._probe)), time.perf_counter() - start

    def coupling(self, params: PyTree, model_state: PyTree) -> float | None:
        """By how much an output changes, relative to the largest, when its example is alone.

        None where examples are said to be coupled, where all outputs are zero, and once it has
        been found.
        """
        if self._coupling is None:
            return None
        arrays, _, _ = _split((params, model_state))
        change, scale = jax.device_get(self._coupling.result()(arrays, self._probe))
        if not scale > 0:
            return None
        self._coupling = None
        return float(change / scale)

    def wait(self) -> None:
        """Returns when nothing is being compiled any more."""
        pending: list[Future | None] = [self._kernel, self._coupling]
        for future in pending:
            if future is not None and not future.cancel():
                future.exception()


def signature(tree: PyTree) -> Any:
    """What a compiled program is specialised to: structure, shapes, dtypes, placement."""
    arrays, static, treedef = _split(tree)
    kinds = [(leaf.shape, leaf.dtype, leaf.sharding) for leaf in arrays]
    return treedef, kinds, [id(leaf) for leaf in static]


_ARRAY = object()


def _split(tree: PyTree) -> tuple[list[jax.Array], list[Any], Any]:
    """The arrays of a tree, and all else (functions in a module) with marks in their place."""
    leaves, treedef = jax.tree.flatten(tree)
    kinds = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
    is_array = [isinstance(leaf, kinds) for leaf in leaves]
    arrays = [jnp.asarray(leaf) for leaf, yes in zip(leaves, is_array, strict=True) if yes]
    static = [_ARRAY if yes else leaf for leaf, yes in zip(leaves, is_array, strict=True)]
    return arrays, static, treedef


def _coupling(f: ApplyFn, params: PyTree, probe: PyTree) -> tuple[jax.Array, jax.Array]:
    """The largest change of an output when its example is alone, and the largest output."""
    together = jax.tree.leaves(f(params, probe))
    alone = jax.vmap(lambda x: f(params, jax.tree.map(lambda leaf: leaf[None], x)))(probe)
    changes = [
        jnp.max(jnp.abs(y - z.reshape(y.shape)))
        for y, z in zip(together, jax.tree.leaves(alone), strict=True)
    ]
    return jnp.stack(changes).max(), jnp.stack([jnp.max(jnp.abs(y)) for y in together]).max()


def _convention(
    f: ApplyFn,
    problem: KernelProblem,
    implementation: str,
    options: Mapping[str, Any],
    kernel: Any,
    outputs: list[Any],
) -> Convention:
    param_filter = options["param_filter"]
    parameters = f"all {len(problem.paths)} leaves"
    if param_filter is not None:
        shown = ", ".join(problem.paths[:8]) + (", ..." if len(problem.paths) > 8 else "")
        parameters = f"{len(problem.paths)} leaves by {_name(param_filter)}: {shown}"
    independent = "independent (BatchNorm, if any, in eval mode)"
    chosen = options["outputs"]
    return Convention(
        function=str(f) if isinstance(f, LinenFn) else _name(f),
        outputs=chosen if isinstance(chosen, str) else "chosen logits",
        examples=independent if problem.batched else "coupled (as by BatchNorm in train mode)",
        parameters=parameters,
        num_parameters=sum(leaf.size for leaf in problem.theta),
        num_examples=kernel.shape[0],
        num_outputs=sum(math.prod(leaf.shape[1:]) for leaf in outputs),
        param_dtype=_dtypes(problem.theta),
        output_dtype=_dtypes(outputs),
        kernel_dtype=str(kernel.dtype),
        precision=str(problem.precision),
        implementation=implementation,
    )


def _rounding(problem: KernelProblem, kernel: Any, outputs: list[Any]) -> float:
    """Relative rounding error of an entry of the kernel.

    Rounding the Jacobian by eps_J leaves the kernel positive semidefinite and moves its smallest
    eigenvalue by about eps_J^2 lambda_max (Weyl's inequality for the singular values of J).
    """
    of_product = float(jnp.finfo(kernel.dtype).eps)
    rounded = _ROUNDED_FACTORS.get(str(problem.precision), 0.0)
    if jax.default_backend() != "cpu":
        of_product = max(of_product, rounded)
    dtypes = {leaf.dtype for leaf in (*problem.theta, *outputs)}
    of_jacobian = max(float(jnp.finfo(dtype).eps) for dtype in dtypes)
    rows = kernel.shape[0] * (kernel.shape[1] if kernel.ndim == 4 else 1)
    return max(of_product, of_jacobian**2 / rows)


def _dtypes(leaves: list[Any]) -> str:
    return ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))


def _name(f: Any) -> str:
    return getattr(f, "__qualname__", type(f).__name__)
