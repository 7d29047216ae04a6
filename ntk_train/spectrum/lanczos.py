r"""The largest eigenvalues of an operator by Lanczos' method, guarded against its breakdown.

    A Q = Q T + beta q e^T,    T = S diag(theta) S^T,    ||A u_i - theta_i u_i|| = beta |S[-1, i]|

(G. Golub, C. Van Loan, *Matrix Computations*, 4th edition, sections 10.1 and 10.3; with full
reorthogonalisation by `matfree.decomp.hessenberg`.) Where the Krylov space is exhausted, beta is
rounding noise and what follows is normalised noise: with matfree 0.6.3 an operator of rank 3 has
then had an eigenvalue of 505 in place of 5. So T is cut where beta falls to rounding noise or the
basis stops to be orthonormal, and the method starts anew in the complement of what it has found,
which also finds the other copies of a multiple eigenvalue. Each error is the norm of a residual
computed with a product of its own.

>>> import numpy as np, jax.numpy as jnp
>>> matrix = jnp.diag(jnp.array([5.0, 2.0, 0.0, 0.0]))
>>> np.round(top_eigenvalues(MatrixOperator(matrix), 2).values, 4).tolist()
[5.0, 2.0]
"""

import dataclasses
import functools
import math
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._arguments import check_type, described, real_number, whole_number
from ntk_train.errors import DtypeError, KernelInputError, NonFiniteKernelError


@runtime_checkable
class SymmetricOperator(Protocol):
    """What the methods take: a pytree with a product. `KernelOperator` is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a vector."""

    @property
    def dtype(self) -> Any:
        """Dtype of a vector."""

    def matvec(self, v: Any) -> Any:
        """The product with a vector."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["matrix"], meta_fields=["ridge"])
@dataclasses.dataclass(frozen=True, eq=False)
class MatrixOperator:
    """A symmetric matrix [n, n] as an operator, with `ridge` added to its diagonal."""

    matrix: Any
    ridge: float | int = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a vector, [n]."""
        return (self.matrix.shape[0],)

    @property
    def dtype(self) -> Any:
        """Dtype of a vector."""
        return self.matrix.dtype

    def matvec(self, v: Any) -> Any:
        """The product with a vector."""
        product = jnp.matmul(self.matrix, v, precision="highest")
        return product + self.ridge * v if self.ridge else product

    def check(self) -> None:
        """Refuses what is no symmetric matrix of real floating-point numbers.

        Raises:
          KernelInputError, DtypeError: it is none.
        """
        expected = "an array [n, n]; a full kernel [N, O, N, O] is kernel.reshape(N * O, N * O)"
        check_type("matrix", self.matrix, (jax.Array, np.ndarray), expected)
        shape = self.matrix.shape
        if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
            msg = f"matrix is {described(self.matrix)}; expected {expected}."
            raise KernelInputError(msg)
        real_number("ridge", self.ridge, "a number to add to the diagonal")
        if isinstance(self.matrix, jax.core.Tracer):
            return
        asymmetry = float(jnp.max(jnp.abs(self.matrix - self.matrix.T)))
        if asymmetry > 0.01 * float(jnp.max(jnp.abs(self.matrix))):
            msg = (
                f"matrix is not symmetric: entries differ from their mirror images by up to "
                f"{asymmetry:.3g}. Lanczos' method is for symmetric matrices; a kernel of x1 with "
                "other inputs x2 is none."
            )
            raise KernelInputError(msg)


@dataclasses.dataclass(frozen=True, eq=False)
class TopEigenvalues:
    """The largest eigenvalues that were found.

    Attributes:
      values: at most k, float64, descending. Each is at most the eigenvalue of its rank, and an
        eigenvalue lies within its error.
      errors: norms of the residuals A u - theta u.
      vectors: [k, n], unit length.
    """

    values: np.ndarray
    errors: np.ndarray
    vectors: np.ndarray

    @property
    def lambda_max(self) -> float:
        """The largest one; compare `errors[0]`."""
        return float(self.values[0])


@dataclasses.dataclass(frozen=True, eq=False)
class Tridiagonal:
    """The part of a Lanczos run that is sound, float64 on the host.

    Attributes:
      diagonal: [m].
      off_diagonal: [m - 1].
      beta: norm of the residual after it; 0 where the Krylov space is exhausted.
      exhausted: whether it is.
      noise: norm of A Q - Q T - beta q e^T, which is rounding: that of Q^T A Q beside T, eps times
        its norm or more.
    """

    diagonal: np.ndarray
    off_diagonal: np.ndarray
    beta: float
    exhausted: bool
    noise: float = 0.0

    def eigh(self, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ritz values, ascending, and vectors of the whole or of its first steps."""
        m = len(self.diagonal) if steps is None else min(steps, len(self.diagonal))
        off = self.off_diagonal[: m - 1]
        matrix = np.diag(self.diagonal[:m]) + np.diag(off, 1) + np.diag(off, -1)
        values, vectors = np.linalg.eigh(matrix)
        return values, vectors

    def with_value(self, value: float) -> "Tridiagonal":
        """One step longer, with a Ritz value that is given, below all others.

        G. Golub, *Some Modified Matrix Eigenvalue Problems*, SIAM Review 15, 1973, section 7.
        """
        theta, vectors = self.eigh()
        last = value + self.beta**2 * float(np.sum(vectors[-1] ** 2 / (theta - value)))
        diagonal = np.append(self.diagonal, last)
        off = np.append(self.off_diagonal, self.beta)
        return dataclasses.replace(self, diagonal=diagonal, off_diagonal=off, beta=0.0)


def top_eigenvalues(
    operator: SymmetricOperator,
    k: int = 1,
    *,
    steps: int | None = None,
    key: jax.Array | None = None,
) -> TopEigenvalues:
    """The k largest eigenvalues of a positive semidefinite operator, with their errors.

    Args:
      operator: a `KernelOperator` or `MatrixOperator`.
      k: how many. Fewer are returned if the numerical rank is lower.
      steps: products to spend in one run, at most n; by default 2 k + 20. Errors fall with it.
      key: for the start; `jax.random.key(0)` by default.

    Raises:
      KernelInputError: k or steps is below 1, or an argument is not of its kind.
      DtypeError: the operator is not real floating point.
      NonFiniteKernelError: a product has NaN or infinite entries.
      ModuleNotFoundError: matfree is not installed.
    """
    n = math.prod(checked_operator(operator).shape)
    k = whole_number("k", k, "at least one eigenvalue")
    if steps is not None:
        steps = whole_number("steps", steps, "at least one step, or None")
    k = min(k, n)
    steps = min(n, max(k, 2 * k + 20 if steps is None else steps))
    key = checked_key(key)
    noise = n * float(jnp.finfo(operator.dtype).eps)
    basis, values, vectors = np.zeros((0, n)), np.zeros(0), np.zeros((0, n))
    while len(basis) < n:
        key, used = jax.random.split(key)
        start = _complement_start(used, operator, basis)
        run, rows = tridiagonalise(operator, start, steps, basis if len(basis) else None)
        ritz, small = run.eigh()
        if len(values) and ritz[-1] <= noise * values[0]:
            break  # all that is left is zero, up to rounding
        enough = len(values) >= k and ritz[-1] <= values[k - 1]
        values = np.concatenate([values, ritz])
        vectors = np.concatenate([vectors, small.T @ rows])
        order = np.argsort(values)[::-1][:k]
        values, vectors = values[order], vectors[order]
        basis = np.concatenate([basis, rows])
        if enough or not run.exhausted:
            break
    return _verified(operator, vectors, noise)


def checked_operator(operator: Any) -> Any:
    """An operator of real floating-point vectors.

    Raises:
      KernelInputError: it is none; a kernel as an array, for example.
      DtypeError: its vectors are of another dtype.
    """
    if not callable(getattr(operator, "matvec", None)):
        msg = (
            f"operator is {described(operator)}; expected a KernelOperator, or "
            "MatrixOperator(matrix) of a dense kernel [n, n]."
        )
        raise KernelInputError(msg)
    if isinstance(operator, MatrixOperator):
        operator.check()
    if not jnp.issubdtype(operator.dtype, jnp.floating):
        msg = f"operator is of {operator.dtype} vectors; expected real floating-point ones."
        raise DtypeError(msg)
    return operator


def checked_key(key: Any) -> jax.Array:
    """The random key, that of 0 by default.

    Raises:
      KernelInputError: it is none; a seed, for example.
    """
    if key is None:
        return jax.random.key(0)
    dtype = getattr(key, "dtype", None)
    if dtype is None or not (jnp.issubdtype(dtype, jax.dtypes.prng_key) or dtype == jnp.uint32):
        msg = f"key={described(key)}; expected jax.random.key(seed), or None."
        raise KernelInputError(msg)
    return key


def tridiagonalise(
    operator: SymmetricOperator, start: jax.Array, steps: int, deflated: np.ndarray | None = None
) -> tuple[Tridiagonal, np.ndarray]:
    """A run of `steps` products from a start, cut where it breaks down.

    Args:
      operator: symmetric.
      start: of the operator's shape.
      steps: at most n.
      deflated: [d, n] orthonormal rows that are projected out.

    Returns:
      The tridiagonal matrix and its basis [m, n], float64.
    """
    padded = None
    if deflated is not None:  # rows of zeros, so that few numbers of rows are compiled for
        missing = 2 ** math.ceil(math.log2(len(deflated))) - len(deflated)
        padded = jnp.asarray(np.pad(deflated, [(0, missing), (0, 0)]), operator.dtype)
    h, beta, defect, scale, rows = jax.device_get(
        _run(operator, start, steps, padded, keep_basis=True)
    )
    sound = cut(h, beta, defect, scale, float(jnp.finfo(h.dtype).eps), start.size)
    return sound, np.asarray(rows[: len(sound.diagonal)], np.float64)


def cut(h: Any, beta: Any, defect: Any, scale: Any, eps: float, n: int) -> Tridiagonal:
    """The leading part of a run in n dimensions that is no noise; see the module's docstring."""
    diagonal = np.diag(h).astype(np.float64)
    betas = np.append(np.diag(h, -1), beta).astype(np.float64)
    if not np.isfinite(scale) or not np.isfinite(diagonal[0]):
        msg = (
            "A product with the operator has NaN or infinite entries: parameters, inputs or "
            "outputs of the network are not finite, or overflow."
        )
        raise NonFiniteKernelError(msg)
    size, length, exhausted = 0.0, len(diagonal), False
    for j in range(len(diagonal)):
        if not defect[j] < np.sqrt(eps) or not np.isfinite(diagonal[j]):
            length, exhausted = j, True
            break
        size = max(size, abs(diagonal[j]), betas[j])
        if betas[j] <= 10 * eps * size:
            length, exhausted = j + 1, True
            break
    length = max(length, 1)
    exhausted = exhausted or length == n
    last = 0.0 if exhausted else float(betas[length - 1])
    scale, off = float(scale), betas[: length - 1]
    # In exact arithmetic these entries are zero.
    beside = np.triu(np.asarray(h, np.float64)[:length, :length], 1) - np.diag(off, 1)
    noise = max(float(np.linalg.norm(beside, 2)), eps * size)
    return Tridiagonal(
        scale * diagonal[:length], scale * off, scale * last, exhausted, scale * noise
    )


@functools.partial(jax.jit, static_argnames=("steps", "keep_basis"))
def _run(
    operator: Any, start: jax.Array, steps: int, deflated: Any = None, keep_basis: bool = False
) -> tuple:
    """A run from one start: Hessenberg matrix, last beta, defects, scale, basis."""
    decomp = matfree_module("decomp")

    def product(v: jax.Array) -> jax.Array:
        product = operator.matvec(v.reshape(start.shape)).ravel()
        return product if deflated is None else product - deflated.T @ (deflated @ product)

    v = start.ravel() / jnp.linalg.norm(start.ravel())
    # Squares of its entries neither over- nor underflow when the operator is scaled.
    size = jnp.max(jnp.abs(product(v)))
    scale = jnp.where(size > 0, size, 1)
    run = decomp.hessenberg(steps, reortho="full", custom_vjp=False)
    with jax.default_matmul_precision("highest"):
        found = run(lambda v: product(v) / scale, v)
        gram = found.Q_tall @ found.Q_tall.T
    defect = jnp.max(jnp.abs(jnp.triu(gram - jnp.eye(steps, dtype=gram.dtype))), axis=0)
    beta = jnp.linalg.norm(found.residual)
    return found.J_small, beta, defect, scale, found.Q_tall if keep_basis else None


@functools.partial(jax.jit, static_argnames="steps")
def run_each(operator: Any, starts: jax.Array, steps: int) -> tuple:
    """Runs from several starts, one after the other, without their bases."""
    return jax.lax.map(lambda start: _run(operator, start, steps)[:4], starts)


def matfree_module(name: str) -> Any:
    """A module of matfree, or an error that says how to install it."""
    try:
        return __import__(f"matfree.{name}", fromlist=[name])
    except ModuleNotFoundError as error:
        msg = "Operators need matfree: pip install 'ntk_train[operator]'."
        raise ModuleNotFoundError(msg) from error


def _complement_start(key: jax.Array, operator: Any, basis: np.ndarray) -> jax.Array:
    start = np.asarray(jax.random.normal(key, operator.shape, operator.dtype), np.float64).ravel()
    for _ in range(2):  # twice is enough (Parlett)
        start = start - basis.T @ (basis @ start)
    return jnp.asarray((start / np.linalg.norm(start)).reshape(operator.shape), operator.dtype)


@jax.jit
def _products(operator: Any, vectors: jax.Array) -> jax.Array:
    return jax.lax.map(operator.matvec, vectors)


def _verified(operator: Any, vectors: np.ndarray, noise: float) -> TopEigenvalues:
    """Rayleigh quotients of unit vectors, and the norms of their residuals."""
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    shaped = jnp.asarray(vectors.reshape(-1, *operator.shape), operator.dtype)
    products = np.asarray(_products(operator, shaped), np.float64).reshape(vectors.shape)
    values = np.sum(vectors * products, axis=1)
    errors = np.linalg.norm(products - values[:, None] * vectors, axis=1)
    order = np.argsort(values)[::-1]
    # The rank is no larger than the number of values above the noise; one is always returned.
    count = max(1, int(np.sum(values > noise * values.max())))
    order = order[:count]
    return TopEigenvalues(values[order], errors[order], vectors[order])
