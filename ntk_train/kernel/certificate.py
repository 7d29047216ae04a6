"""A check of any kernel by plain derivatives of f, which share no code with what computed it.

    v^T Theta v = ||J^T v||^2          u^T Theta(x1, x2) v = <J1^T u, J2^T v>

The right sides come from `jax.vjp` of f on the whole batch, so that they also differ from a kernel
that was computed example by example although the examples interact. One backward pass checks the
whole kernel and, by the leaves of J^T v, each layer of it.

>>> import jax, jax.numpy as jnp, ntk_train
>>> f = lambda params, x: jnp.tanh(x @ params["w"])
>>> params = {"w": jax.random.normal(jax.random.key(0), (3, 2))}
>>> x = jax.random.normal(jax.random.key(1), (4, 3))
>>> kernel = ntk_train.ntk(f, params, x)
>>> ntk_train.certify(kernel, f, params, x).holds
True
>>> ntk_train.certify(1.01 * kernel, f, params, x).holds
False
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._types import ApplyFn, ParamFilter, PyTree
from ntk_train.errors import KernelInputError
from ntk_train.kernel.groups import groups_of
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.precision import (
    derivative_bits,
    kernel_product_bits,
    precision_of_products,
)
from ntk_train.kernel.problem import mode_and_choices, on_one_device, split_params
from ntk_train.kernel.readout import flat_outputs, read_out
from ntk_train.kernel.whole import one_program_for_each
from ntk_train.program.rounding import unit_roundoff

# The trace or diagonal of up to so many outputs takes a backward pass for each of them, and of more
# outputs one for each of so many vectors of random signs, whose mean has a statistical error.
_PASSES = 16
_VECTORS = 2  # where one pass checks a vector
_MOVES = 2  # passes at parameters and inputs that are moved by rounding
# A deviation is rounding up to so many times the unit roundoff, up to so many times the change that
# comes of perturbing parameters and inputs by rounding, and below what anybody would mind.
_ROUNDOFFS, _CHANGES, _LEAST = 64.0, 32.0, 1e-9
_STANDARD_ERRORS = 8.0  # that a mean over random signs may be off


@dataclasses.dataclass(frozen=True)
class Certificate:
    """How far a kernel is from what plain derivatives of f say, for each of its parts.

    Attributes:
      deviations: by the name of a part ("" for a kernel in one), the largest difference between
        the two sides of the equation, relative to ||J1^T u|| ||J2^T v||.
      tolerances: up to which it counts as rounding, or as the statistical error of a mean over
        random signs (for the trace or diagonal of more than 16 outputs).
    """

    deviations: Mapping[str, float]
    tolerances: Mapping[str, float]

    @property
    def wrong(self) -> list[str]:
        """The parts that deviate by more than their tolerance, the worst first.

        A part whose derivatives are not finite cannot be checked and is not among them.
        """
        ratios = {name: value / self.tolerances[name] for name, value in self.deviations.items()}
        return sorted((name for name in ratios if ratios[name] > 1), key=lambda name: -ratios[name])

    @property
    def worst(self) -> tuple[float, float]:
        """Deviation and tolerance of the first part that is wrong, where there is one."""
        name = self.wrong[0]
        return self.deviations[name], self.tolerances[name]

    @property
    def holds(self) -> bool:
        """Whether no part deviates by more than its tolerance."""
        return not self.wrong

    @property
    def deviation(self) -> float:
        """The largest deviation of a part."""
        return max(self.deviations.values(), default=0.0)


class Pass(NamedTuple):
    """What one forward and one backward pass of f are taken for.

    Attributes:
      vectors: v [n] or [n, o] of each side.
      signs: by which v is multiplied, of the outputs [o].
      relative: by how much of itself each parameter and input is moved up or down, or 0.
      seed: of these moves.
    """

    vectors: tuple[np.ndarray, ...]
    signs: np.ndarray
    relative: np.float32
    seed: np.int32


class Product(NamedTuple):
    """What the derivatives of f say for one `Pass`.

    Attributes:
      inner: <J1^T u, J2^T v> by part [g].
      scale: ||J1^T u|| ||J2^T v||, likewise.
    """

    inner: jax.Array
    scale: jax.Array


class Check:
    """The check of a function's kernels on given inputs, at any parameters of the same shapes.

    Args:
      f: as in `ntk_train.ntk`.
      params: parameters, for their shapes.
      x1: the inputs.
      x2: the other inputs, or None.
      options: with which the kernel is computed; chosen logits as numbers.
      seed: of the random vectors.

    Attributes:
      passes: what to take the `product` of, for a comparison.
    """

    def __init__(
        self,
        f: ApplyFn,
        params: PyTree,
        x1: PyTree,
        x2: PyTree | None,
        options: KernelOptions,
        *,
        seed: int = 0,
    ) -> None:
        self._filter = options.param_filter
        theta, paths, _ = split_params(params, self._filter)
        self._groups = groups_of(paths, options.per_layer)
        self._mode, *choices = mode_and_choices(options.outputs, x2)
        self._read = read_out(options.outputs)
        flat, inputs = self._flat(f, params), _sides(x1, x2)
        with precision_of_products(options.precision):
            roundoffs = [unit_roundoff(flat, theta, x) for x in inputs]
        self._roundoff = max(*roundoffs, roundoff_of_products(theta, options.precision))
        shapes = [jax.eval_shape(flat, theta, x).shape for x in inputs]
        random = np.random.default_rng(seed)
        num_outputs = shapes[0][1]
        is_shared = self._mode in ("trace", "diagonal")  # outputs of the two sides belong together
        self._signs = np.ones((1, num_outputs))  # [s, o]
        self._is_exact = not is_shared or num_outputs <= _PASSES
        if is_shared and self._is_exact:
            self._signs = np.eye(num_outputs)
        elif is_shared:
            self._signs = random.choice([-1.0, 1.0], (_PASSES, num_outputs))
        self._vectors = [
            _random_vectors(random, self._mode, shape, 1 if is_shared else _VECTORS)
            for shape in shapes
        ]
        own = [self._pass(k, signs) for k in range(len(self._vectors[0])) for signs in self._signs]
        self._before = 0
        if is_shared:  # all outputs at once
            self._before = len(own)
            own.append(self._pass(0, random.choice([-1.0, 1.0], num_outputs)))
        moved = [self._moved(own[self._before], seed) for seed in range(_MOVES)]
        self.passes = [*own, *moved]
        self._weights = [  # of the outputs [n, o], for each entry of a vector [n]
            None if choice is None else np.eye(shape[1])[_checked_choice(choice, shape)]
            for shape, choice in zip(shapes, choices, strict=False)
        ]

    def _pass(self, k: int, signs: np.ndarray) -> Pass:
        vectors = tuple(vectors[k] for vectors in self._vectors)
        return Pass(vectors, signs, np.float32(0), np.int32(0))

    def _moved(self, a_pass: Pass, seed: int) -> Pass:
        relative = np.float32(4 * self._roundoff)
        return a_pass._replace(relative=relative, seed=np.int32(seed))

    def product(
        self, f: ApplyFn, params: PyTree, x1: PyTree, x2: PyTree | None, a_pass: Pass
    ) -> Product:
        """What plain derivatives of f say for one of `passes`: a JAX function.

        It takes a forward and a backward pass over the whole batch. The passes are no loop in it:
        on a CPU XLA runs convolutions inside of loops forty times slower.
        """
        theta, _, _ = split_params(params, self._filter)
        moved = _perturbed((theta, _sides(x1, x2)), a_pass.relative, jax.random.key(a_pass.seed))
        theta, inputs = moved
        flat = self._flat(f, params)
        pulled = []
        with precision_of_products("highest"):
            for side, x in enumerate(inputs):
                y, pullback = jax.vjp(lambda theta, x=x: flat(theta, x), theta)
                v = jnp.asarray(a_pass.vectors[side])
                cotangent = self._cotangent(side, v, jnp.asarray(a_pass.signs))
                pulled += pullback(cotangent.astype(y.dtype))
            return Product(*self._by_group(pulled[0], pulled[-1]))

    def compare(self, kernels: Any, products: Sequence[Product]) -> Certificate:
        """The certificate of a kernel, or of a dict of its parts by layer, on the host.

        `products` are those of `passes`.

        Raises:
          KernelInputError: there are other parts, or of other shapes, than the check was made for.
        """
        parts = kernels if isinstance(kernels, Mapping) else {"": kernels}
        if set(parts) != set(self._groups):
            msg = (
                f"kernel has the parts {list(parts)}; expected {list(self._groups)}, as `ntk` "
                "returns them for the same per_layer."
            )
            raise KernelInputError(msg)
        parts = {name: parts[name] for name in self._groups}  # jit sorts the names of a dict
        inner, scale, changes = self._numbers(products)
        passes = inner.shape[1]
        share = 1 if self._is_exact else 1 / passes
        expected, scale = share * inner.sum(axis=1), share * scale.sum(axis=1)  # [k, g]
        got = np.stack([self._forms(np.asarray(kernel)) for kernel in parts.values()], axis=1)
        # What is zero but for rounding is compared with the rounding of the whole.
        rounding = _ROUNDOFFS * self._roundoff
        scale = np.maximum(scale, rounding**2 * scale.sum(axis=1, keepdims=True))
        scale[scale == 0] = 1
        deviations = np.abs(got - expected) / scale
        deviations[np.isfinite(expected) & ~np.isfinite(got)] = np.inf
        tolerances = np.maximum(max(rounding, _LEAST), _CHANGES * changes)
        if not self._is_exact:
            error = inner.std(axis=1, ddof=1) / math.sqrt(passes)
            tolerances = tolerances + _STANDARD_ERRORS * (error / scale).max(axis=0)
        return Certificate(
            dict(zip(parts, deviations.max(axis=0).tolist(), strict=True)),
            dict(zip(parts, tolerances.tolist(), strict=True)),
        )

    def _numbers(self, products: Sequence[Product]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inner products and scales [k, s, g], and the relative changes by rounding [g]."""
        inner, scale = (np.asarray(value, np.float64) for value in zip(*products, strict=True))
        relative_to = np.where(scale[self._before] > 0, scale[self._before], 1)
        changes = np.abs(inner[-_MOVES:] - inner[self._before]).max(axis=0) / relative_to
        shape = len(self._vectors[0]), len(self._signs), len(self._groups)
        own = slice(shape[0] * shape[1])
        return inner[own].reshape(shape), scale[own].reshape(shape), changes

    def _flat(self, f: ApplyFn, params: PyTree) -> ApplyFn:
        """From the differentiated leaves and inputs to outputs [N, O], without `problem`'s code."""
        _, _, merge = split_params(params, self._filter)

        def flat(theta: list[jax.Array], x: PyTree) -> jax.Array:
            return flat_outputs(self._read(f(merge(theta), x)))

        return flat

    def _cotangent(self, side: int, v: jax.Array, signs: jax.Array) -> jax.Array:
        """Of the outputs [n, o], for a vector [n] or [n, o] and the signs of one pass [o]."""
        weights = self._weights[side]
        if weights is not None:
            return v[:, None] * jnp.asarray(weights)
        return (v if v.ndim == 2 else v[:, None]) * signs

    def _by_group(
        self, left: Sequence[jax.Array], right: Sequence[jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """Inner product and product of norms of two tangents, for each group of leaves [g]."""

        def dot(left: Sequence[jax.Array], right: Sequence[jax.Array]) -> jax.Array:
            wide = [jnp.promote_types(a.dtype, jnp.float32) for a in left]
            pairs = zip(left, right, wide, strict=True)
            leaves = [jnp.sum(a.astype(dtype) * b.astype(dtype)) for a, b, dtype in pairs]
            return jnp.stack([sum(leaves[i] for i in own) for own in self._groups.values()])

        return dot(left, right), jnp.sqrt(dot(left, left) * dot(right, right))

    def _forms(self, kernel: np.ndarray) -> np.ndarray:
        """u^T Theta v of each vector [k]."""
        u, v = self._vectors[0], self._vectors[-1]
        labels = {"full": "kno,nomp,kmp->k", "diagonal": "kno,nmo,kmo->k"}
        try:
            return np.einsum(labels.get(self._mode, "kn,nm,km->k"), u, kernel, v, optimize=True)
        except ValueError as error:
            msg = (
                f"kernel has shape {kernel.shape}, which is none of outputs={self._mode!r} for "
                f"vectors of shapes {u.shape[1:]} and {v.shape[1:]}."
            )
            raise KernelInputError(msg) from error


def certify(
    kernel: Any,
    f: ApplyFn,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None = None,
    *,
    outputs: Any = "full",
    precision: str | None = "float32",
    param_filter: ParamFilter | None = None,
    per_layer: bool | Callable[[str], str] = False,
    seed: int = 0,
) -> Certificate:
    """Checks a kernel, from wherever it came, against plain derivatives of f.

    Args:
      kernel: what `ntk_train.ntk` returns for the same arguments: an array, or with `per_layer` a
        dict of arrays.
      f: as in `ntk_train.ntk`, as are params, the inputs and the options.
      params: the parameters.
      x1: N inputs.
      x2: M other inputs, or None.
      outputs: which kernel it is.
      precision: with which it was computed; the derivatives are taken in "highest".
      param_filter: which parameters were differentiated.
      per_layer: whether, or how, it is in parts.
      seed: of the random vectors.

    Returns:
      A `Certificate`. It takes memory for one backward pass of f over all N examples.

    Raises:
      KernelInputError: the kernel does not have the shape of the kernel of these arguments.

    References:
      The identity behind NTK-vector products: R. Novak, J. Sohl-Dickstein, S. S. Schoenholz, *Fast
      Finite Width Neural Tangent Kernel*, ICML 2022, section 3.2. For random signs: M. F.
      Hutchinson, *A stochastic estimator of the trace of the influence matrix*, 1989.
    """
    options = KernelOptions(
        outputs=outputs, precision=precision, param_filter=param_filter, per_layer=per_layer
    )
    return certificate_of(kernel, f, params, x1, x2, options, seed=seed)


def certificate_of(
    kernel: Any,
    f: ApplyFn,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None,
    options: KernelOptions,
    *,
    seed: int = 0,
) -> Certificate:
    """As `certify`, of the kernel of these options."""
    x1, x2 = on_one_device("x1", x1), on_one_device("x2", x2)
    check = Check(f, params, x1, x2, options, seed=seed)

    def product(a_pass: Pass) -> Product:
        return check.product(f, params, x1, x2, a_pass)

    products = one_program_for_each(product, (params, x1, x2), check.passes)
    return check.compare(kernel, jax.device_get(products))


def roundoff_of_products(
    theta: Sequence[jax.Array], precision: str | None, device: str | None = None
) -> float:
    """Unit roundoff of the kernel's own products, of which f may have none."""
    is_wide = any(leaf.dtype == jnp.float64 for leaf in theta)
    dtype = jnp.dtype(jnp.float64 if is_wide else jnp.float32)
    bits = [jnp.finfo(dtype).nmant, kernel_product_bits(precision, dtype, device)]
    if not is_wide:
        bits.append(derivative_bits(precision, device))
    return 2.0 ** -(min(b for b in bits if b is not None) + 1)


def _sides(x1: PyTree, x2: PyTree | None) -> list[PyTree]:
    return [x1] if x2 is None else [x1, x2]


def _random_vectors(
    random: np.random.Generator, mode: str, shape: tuple[int, int], number: int
) -> np.ndarray:
    """Vectors [k, n], or [k, n, o], of numbers that are exact in every floating-point type."""
    sizes = (number, *shape) if mode in ("full", "diagonal") else (number, shape[0])
    return random.choice([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0], sizes)


def _perturbed(tree: PyTree, relative: Any, key: jax.Array) -> PyTree:
    """Each floating-point number changed by so much of itself, up or down."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(len(leaves), 1))

    def moved(leaf: Any, key: jax.Array) -> Any:
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            return leaf
        wide = jnp.promote_types(dtype, jnp.float32)
        factor = 1 + relative * jax.random.rademacher(key, jnp.shape(leaf), wide)
        return (jnp.asarray(leaf, wide) * factor).astype(dtype)

    moves = [moved(leaf, key) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(treedef, moves)


def _checked_choice(choice: Any, shape: tuple[int, int]) -> np.ndarray:
    """Chosen logits as numbers [n]."""
    numbers = np.broadcast_to(np.asarray(choice), shape[:1]).astype(np.int64)
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < shape[1]):
        msg = (
            f"outputs chooses logits {numbers.min()} to {numbers.max()}; f has {shape[1]} outputs "
            f"per example, numbered from 0 to {shape[1] - 1}."
        )
        raise KernelInputError(msg)
    return numbers
