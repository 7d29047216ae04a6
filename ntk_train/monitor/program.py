"""The kernel of a probe as a program: traced once, compiled and run beside the training steps.

`KernelProgram.start` returns at once with a `PendingKernel`, whose `fetch`, on another thread,
waits for it. After `start` the caller may donate the parameters to the next step:

- Once the program is compiled, `start` dispatches it. What has been dispatched reads the buffers
  that it was given; XLA lets a later program, to which they are donated, wait for it. (JAX only
  forbids uses after the call that donates.)
- Before that, `start` copies the parameters on the device, and `fetch` runs the program. Sharded
  parameters are not copied: programs over several devices have to be dispatched in one order by
  all, so `start` waits for the compilation then.
"""

import dataclasses
import functools
import time
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._types import ApplyFn, KernelProblem, PyTree
from ntk_train.kernel.auto import Resolved, resolve
from ntk_train.kernel.certificate import Certificate
from ntk_train.kernel.failed_call import bound
from ntk_train.kernel.on_mesh import Division, compute_on_mesh
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.precision import bits_of_f, precision_of_products
from ntk_train.kernel.problem import replicated, warn_of_coupling
from ntk_train.kernel.whole import usual_promotion
from ntk_train.monitor.certifier import Certifier
from ntk_train.monitor.compiled import keep_compiled_programs
from ntk_train.monitor.convention import Convention, convention_of, rounding_of
from ntk_train.monitor.switches import usual_switches

# Outputs of an example computed alone and in the batch differ by rounding only, if examples are
# independent; TF32 products differ by about 1e-3, BatchNorm in train mode by about 1.
_COUPLING_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True, eq=False)
class FetchedKernel:
    """A kernel on the host, with what was computed beside it.

    Attributes:
      kernel: [N, N] or [N, O, N, O].
      layers: its parts by layer, which add up to it; None where they were not asked for.
      logits: arrays [N, ...] of the outputs at the same parameters, as f returns them; None where
        they were not asked for.
      convention: the choices behind its numbers.
      eps: relative rounding error of an entry of the kernel, for the noise floor.
      certificate: of the kernel, where it was asked for and could be computed; else None.
      coupling: by how much an output changes, relative to the largest, when its example is alone;
        None where examples are said or known to be coupled, where all outputs are zero, and once
        it has been found.
      seconds: from when the parameters were there until the kernel was on the host.
      check_seconds: from then until the certificate was there.
    """

    kernel: np.ndarray
    layers: dict[str, np.ndarray] | None
    logits: tuple[np.ndarray, ...] | None
    coupling: float | None
    convention: Convention
    eps: float
    certificate: Certificate | None
    seconds: float
    check_seconds: float

    @property
    def is_coupled(self) -> bool:
        """Whether outputs change by more than rounding when their example is alone."""
        return self.coupling is not None and self.coupling > _COUPLING_TOLERANCE


class KernelProgram:
    """The kernel on a probe, for parameters of the shapes it was made for.

    Attributes:
      signature: of what it was made for, see `signature`.
      budget: the bytes that its blocks may take; None for what they take by themselves.
      convention: the choices behind its numbers.
      eps: as of `FetchedKernel`.
      output_shapes: of each array that f returns.
      is_coupled: whether examples are known to interact although they are taken one by one.

    Args:
      f: `f(params, x)`, or `f(params, x, model_state)` where there is a model_state.
      probe: the inputs.
      options: of the kernel.
      params: parameters to differentiate.
      model_state: what else f needs, or None.
      with_logits: whether the outputs are computed too.
      checked: whether its kernels can be compared with plain derivatives, see `start`.
      division: over devices, None for none.

    Raises:
      KernelInputError, DtypeError: as `ntk_train.ntk`.
    """

    def __init__(
        self,
        f: ApplyFn,
        probe: PyTree,
        options: KernelOptions,
        params: PyTree,
        model_state: PyTree,
        *,
        with_logits: bool = False,
        checked: bool = False,
        division: Division | None = None,
    ) -> None:
        self._division = division
        arrays, static, treedef = _split((params, model_state))
        arrays = self._placed(arrays)
        self.signature = signature((params, model_state))
        self.budget = options.memory_budget
        self._probe = probe
        self._unflatten = lambda arrays: _with_static(arrays, static, treedef)
        # What is planned while the kernel is traced, once.
        plans: list[tuple[KernelProblem, str]] = []

        def kernel(arrays: list[jax.Array], probe: PyTree) -> dict[str, Any]:
            params, model_state = self._unflatten(replicated(arrays))
            found: dict[str, Any] = {}
            if with_logits:
                found["logits"] = tuple(jax.tree.leaves(bound(f, model_state)(params, probe)))
            with precision_of_products(options.precision), usual_promotion():
                resolved, layers = resolve(f, params, probe, None, options, model_state)
                parts = self._on_all_devices(resolved, f, params, probe, options, model_state)
            plans.append((_without_arrays(resolved.problem), resolved.implementation))
            if not options.per_layer:
                return found | {"kernel": parts[0]}
            return found | {"kernel": sum(parts), "layers": dict(zip(layers, parts, strict=True))}

        lowered = jax.jit(kernel).lower(arrays, probe)
        (problem, name), kernel_info = plans.pop(), lowered.out_info["kernel"]
        warn_of_coupling(problem.coupling)
        self.is_coupled = problem.coupling is not None
        coupling = None
        if options.batched and problem.coupling is None:  # or it has been said

            def coupling_of(arrays: list[jax.Array], probe: PyTree) -> tuple[jax.Array, jax.Array]:
                params, model_state = self._unflatten(replicated(arrays))
                return _coupling(bound(f, model_state), params, probe)

            coupling = jax.jit(coupling_of).lower(arrays, probe)
        params, model_state = self._unflatten(replicated(arrays))
        with precision_of_products(options.precision):
            of_probe = functools.partial(bound(f, model_state), params)
            program, shapes = jax.make_jaxpr(of_probe, return_shape=True)(probe)
        outputs, of_f = jax.tree.leaves(shapes), bits_of_f(options.precision, program.jaxpr, name)
        self.output_shapes = tuple(output.shape for output in outputs)
        self._certifier: Certifier | None = None
        if checked:
            self._certifier = Certifier(f, probe, options, self._unflatten, arrays)
        self.convention = convention_of(f, problem, name, options, kernel_info, outputs, of_f)
        self.eps = rounding_of(problem.precision, problem.theta, kernel_info, outputs, of_f)
        # Under `jax.set_mesh` what is on no mesh goes to all its devices.
        self._on_a_mesh = jax.sharding.get_abstract_mesh().size > 1
        self._compile(lowered, coupling, arrays)

    def _on_all_devices(
        self,
        resolved: Resolved,
        f: ApplyFn,
        params: PyTree,
        probe: PyTree,
        options: KernelOptions,
        model_state: PyTree,
    ) -> list[jax.Array]:
        """The kernel of each layer, or of all, divided over a mesh if there is one."""
        if self._division is None:
            return resolved.kernels()
        own = dataclasses.replace(options, implementation=resolved.implementation)
        found = compute_on_mesh(
            f, params, probe, None, own, model_state, self._division, warns=False
        )
        # Whole on each device, or a process of several could not read it.
        found = self._division.gathered(found)
        return list(found.values()) if options.per_layer else [found]

    def _placed(self, arrays: list[jax.Array]) -> list[jax.Array]:
        """On the devices of the mesh, where they are not yet."""
        if self._division is None:
            return arrays
        devices = set(self._division.mesh.devices.flat)
        if all(leaf.sharding.device_set == devices for leaf in arrays):
            return arrays
        return jax.device_put(arrays, self._division.whole)

    def _compile(self, lowered: Any, coupling: Any, arrays: list[jax.Array]) -> None:
        """Compiles all that has been traced, on a thread of its own.

        XLA does that without Python's lock, so that training steps go on meanwhile.
        """
        keep_compiled_programs()
        self._compiles_since = time.perf_counter()
        executor = ThreadPoolExecutor(1, thread_name_prefix="ntk-compile")
        self._kernel: Future = executor.submit(lowered.compile)
        self._mark = executor.submit(jax.jit(_mark).lower(arrays).compile)
        self._coupling: Future | None = None
        if coupling is not None:
            self._coupling = executor.submit(coupling.compile)
        if self._certifier is not None:
            self._certifier.compile(executor)
        self._compiled: Future = executor.submit(time.perf_counter)  # after all of these
        executor.shutdown(wait=False)

    def start(self, params: PyTree, model_state: PyTree, *, check: bool = False) -> "PendingKernel":
        """Computes the kernel beside the caller, who may donate the arguments then.

        Args:
          params: parameters of the shapes it was made for.
          model_state: likewise.
          check: whether to compare the kernel with plain derivatives too.

        Raises:
          JaxRuntimeError: it could not be compiled or dispatched.
        """
        arrays, _, _ = _split((params, model_state))
        arrays = self._placed(arrays)
        sharded = any(len(leaf.sharding.device_set) > 1 for leaf in arrays) or self._on_a_mesh
        if sharded or all(future.done() for future in self._futures()):
            return PendingKernel(self, arrays, check, running=self._run(arrays, check))
        copies = [jax.device_put(leaf, may_alias=False) for leaf in arrays]
        return PendingKernel(self, copies, check)

    @property
    def cancelled(self) -> bool:
        """Whether `wait` has cancelled some of its compilation: it can never run."""
        return any(future.cancelled() for future in self._futures())

    @property
    def compile_seconds(self) -> float:
        """For which it has been compiled, or was."""
        done = self._compiled.done() and not self._compiled.cancelled()
        end = self._compiled.result() if done else time.perf_counter()
        return end - self._compiles_since

    @property
    def temporary_bytes(self) -> int | None:
        """What the compiled program takes beside its arguments; None where that is not known."""
        if not self._kernel.done() or self._kernel.cancelled() or self._kernel.exception():
            return None
        return getattr(self._kernel.result().memory_analysis(), "temp_size_in_bytes", None)

    def wait(self, timeout: float | int | None = None) -> bool:
        """Waits until nothing is being compiled any more, which may be cancelled; whether so."""
        ours = [] if self._certifier is None else self._certifier.futures
        pending = [future for future in [*self._futures(), *ours] if not future.cancel()]
        return not futures.wait(pending, timeout).not_done

    def _futures(self) -> list[Future]:
        return [future for future in (self._kernel, self._mark, self._coupling) if future]

    @usual_switches()
    def _run(self, arrays: list[jax.Array], check: bool) -> tuple[Any, Any, Any, Any]:
        """Dispatches, once compiled: a mark that starts the clock, the kernel, its checks."""
        mark = self._mark.result()(arrays)
        kernel = self._kernel.result()(arrays, self._probe)
        coupling = self._coupling
        alone = coupling and coupling.result()(arrays, self._probe)
        products = self._certifier.start(arrays) if check and self._certifier else None
        return mark, kernel, alone, products

    def _relative(self, coupling: tuple[jax.Array, jax.Array] | None) -> float | None:
        if coupling is None:
            return None
        change, scale = jax.device_get(coupling)
        if not scale > 0:
            return None
        self._coupling = None
        return float(change / scale)


class PendingKernel:
    """A kernel that `KernelProgram.start` was asked for.

    Attributes:
      program: of this kernel.

    Args:
      program: of this kernel.
      arrays: its arguments: those that were dispatched, which the caller may have donated since; or
        copies, if nothing is running yet.
      check: whether it is to be certified.
      running: what was dispatched.
    """

    def __init__(
        self,
        program: KernelProgram,
        arrays: list[jax.Array],
        check: bool = False,
        running: tuple[Any, Any, Any, Any] | None = None,
    ) -> None:
        self.program = program
        self._arrays = arrays
        self._check = check
        self._running = running
        self._started: float | None = None  # when the device began with it

    def fetch(self) -> FetchedKernel:
        """Waits for the kernel and copies it to the host; to be called once.

        Raises:
          JaxRuntimeError: the device ran out of memory, or failed.
        """
        running, self._running = self._running, None
        if running is None:
            for future in self.program._futures():
                future.result()
            jax.block_until_ready(self._arrays)
            running = self.program._run(self._arrays, self._check)
        mark, outputs, coupling, products = running
        jax.block_until_ready(mark)  # the steps that were still under way are no time of the kernel
        self._started = time.perf_counter()
        found = jax.device_get(outputs)
        seconds = self.seconds
        certificate, certifier = None, self.program._certifier
        if products is not None and certifier is not None:
            certificate = certifier.certificate(found.get("layers", found["kernel"]), products)
        check_seconds = self.seconds - seconds
        if certificate is None or certificate.holds:
            self._arrays = []  # copies are not kept any longer
        return FetchedKernel(
            kernel=found["kernel"],
            layers=found.get("layers"),
            logits=found.get("logits"),
            coupling=self.program._relative(coupling),
            convention=self.program.convention,
            eps=self.program.eps,
            certificate=certificate,
            seconds=seconds,
            check_seconds=check_seconds,
        )

    @property
    def seconds(self) -> float:
        """Since the device began with it; 0 before."""
        return 0.0 if self._started is None else time.perf_counter() - self._started

    def arguments(self) -> tuple[PyTree, PyTree] | None:
        """Parameters and model state, to try again; None where they have been donated."""
        if donated(self._arrays):
            return None
        return self.program._unflatten(self._arrays)


def signature(tree: PyTree) -> Any:
    """What a compiled program is specialised to: structure, shapes, dtypes, placement."""
    arrays, static, treedef = _split(tree)
    kinds = [(leaf.shape, leaf.dtype, leaf.sharding) for leaf in arrays]
    return treedef, kinds, [id(leaf) for leaf in static]


def donated(tree: PyTree) -> bool:
    """Whether an array of a tree has been donated, so that nobody can read it any more."""
    leaves = jax.tree.leaves(tree)
    return any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves)


_ARRAY = object()


def _split(tree: PyTree) -> tuple[list[jax.Array], list[Any], Any]:
    """The arrays of a tree, and all else (functions in a module) with marks in their place."""
    leaves, treedef = jax.tree.flatten(tree)
    kinds = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
    is_array = [isinstance(leaf, kinds) for leaf in leaves]
    # On a CPU jnp.asarray may share the memory of a NumPy array, which the caller may write to.
    arrays = [
        leaf if isinstance(leaf, jax.Array) else jnp.array(leaf)
        for leaf, yes in zip(leaves, is_array, strict=True)
        if yes
    ]
    static = [_ARRAY if yes else leaf for leaf, yes in zip(leaves, is_array, strict=True)]
    return arrays, static, treedef


def _with_static(arrays: list[jax.Array], static: list[Any], treedef: Any) -> Any:
    """The tree that `_split` took apart, with other arrays."""
    rest = iter(arrays)
    return jax.tree.unflatten(treedef, [next(rest) if leaf is _ARRAY else leaf for leaf in static])


def _without_arrays(problem: KernelProblem) -> KernelProblem:
    """A problem of shapes and options alone, as its arrays are traced, also those in its f."""
    theta: Any = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in problem.theta]
    return dataclasses.replace(problem, f1=_gone, f2=_gone, theta=theta, x1=None, x2=None)


def _gone(*_: Any) -> Any:
    msg = "the function of a problem without arrays is not there"
    raise AssertionError(msg)


def _mark(arrays: list[jax.Array]) -> jax.Array:
    """Something small that is there when the arrays are."""
    return replicated(min(arrays, key=lambda leaf: leaf.size)).reshape(-1)[:1]


def _coupling(f: ApplyFn, params: PyTree, probe: PyTree) -> tuple[jax.Array, jax.Array]:
    """The largest change of an output when its example is alone, and the largest output.

    Of outputs that are finite: a class may be masked by -inf.
    """
    together = jax.tree.leaves(f(params, probe))
    alone = jax.vmap(lambda x: f(params, jax.tree.map(lambda leaf: leaf[None], x)))(probe)
    pairs = [(y, z.reshape(y.shape)) for y, z in zip(together, jax.tree.leaves(alone), strict=True)]
    return _largest([y - z for y, z in pairs]), _largest(together)


def _largest(arrays: list[jax.Array]) -> jax.Array:
    """The largest absolute value of an entry that is finite; 0 where there is none."""
    finite = [jnp.where(jnp.isfinite(array), jnp.abs(array), 0) for array in arrays]
    return jnp.stack([jnp.max(array, initial=0) for array in finite]).max()
