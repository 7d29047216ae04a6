r"""Trace, spectral density and log-determinant of an operator from random probes, with errors.

    trace f(A) = E[z^T f(A) z]  ~  n mean_p sum_i w_pi f(theta_pi),   z uniform on the sphere

theta and w are nodes and squared first components of the eigenvectors of Lanczos' tridiagonal
matrix: a Gauss quadrature of the spectral measure of z (S. Ubaru, J. Chen, Y. Saad, *Fast
Estimation of tr(f(A)) via Stochastic Lanczos Quadrature*, SIAM J. Matrix Anal. Appl. 38, 2017; as a
spectral density in training B. Ghorbani, S. Krishnan, Y. Xiao, ICML 2019). Where f is a logarithm,
Gauss' quadrature is above the integral and Radau's, with a node where eigenvalues begin, below it
(G. Golub, G. Meurant, *Matrices, Moments and Quadrature*, 1994, theorems 3.2 and 3.4): what the
steps leave open is between the two. The trace comes from Hutch++ (R. Meyer, C. Musco, C. Musco,
D. Woodruff, *Hutch++: Optimal Stochastic Trace Estimation*, SOSA 2021): exact on the space that
some probes find, and estimated on its complement by the others. XTrace (E. Epperly, J. Tropp,
R. Webber, 2024) uses each probe for both, which makes it a little closer, but its samples depend on
each other: the error that their spread stated was up to three times too small.

An error is about one standard deviation: one result in three is further off. Few probes have that
of Student's t, and what is not chance (rounding, too few steps) is added to it.

>>> import jax.numpy as jnp
>>> from ntk_train.spectrum.lanczos import MatrixOperator
>>> round(operator_trace(MatrixOperator(jnp.diag(jnp.arange(1.0, 5.0)))).value, 4)
10.0
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._arguments import real_array, real_number, whole_number
from ntk_train.errors import NonFiniteKernelError
from ntk_train.spectrum.lanczos import (
    SymmetricOperator,
    Tridiagonal,
    checked_key,
    checked_operator,
    cut,
    run_each,
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its error, infinite where none is known; see the module's docstring."""

    value: float
    error: float


@dataclasses.dataclass(frozen=True, eq=False)
class SpectralDensity:
    """The eigenvalues of an operator as a measure: points with weights that sum to n.

    Attributes:
      nodes: for each probe its Ritz values, ascending.
      weights: for each probe their weights, which sum to 1.
      runs: of each probe the run they come from.
      size: n, the number of eigenvalues.
      eps: of the dtype of the products; below n eps lambda_max a node is noise.
    """

    nodes: list[np.ndarray]
    weights: list[np.ndarray]
    runs: list[Tridiagonal]
    size: int
    eps: float

    @property
    def noise_floor(self) -> float:
        """N eps times the largest node."""
        return self.size * self.eps * max(0.0, *(float(nodes[-1]) for nodes in self.nodes))

    def density(self, grid: np.ndarray, width: float | int) -> np.ndarray:
        """Eigenvalues per unit of lambda on a grid, each node smeared to a Gaussian of a width.

        Raises:
          KernelInputError: the width is not positive, or the grid holds no finite numbers.
        """
        grid = real_array("grid", grid, "an array of eigenvalues at which to evaluate")
        width = real_number("width", width, "a positive width of a Gaussian", above=0)
        total = np.zeros(grid.shape)
        for nodes, weights in zip(self.nodes, self.weights, strict=True):
            z = (grid[..., None] - nodes) / width
            total += np.exp(-(z**2) / 2) @ weights
        return self.size * total / (len(self.nodes) * width * math.sqrt(2 * math.pi))

    def count_above(self, threshold: float | int) -> Estimate:
        """How many eigenvalues are larger than a threshold.

        Its error is that of the probes alone; a threshold within a cluster of eigenvalues that the
        steps do not resolve is off by up to the cluster.

        Raises:
          KernelInputError: the threshold is no number.
        """
        threshold = real_number("threshold", threshold, "an eigenvalue")
        return self._mean(
            [
                float(weights[nodes > threshold].sum())
                for nodes, weights in zip(self.nodes, self.weights, strict=True)
            ]
        )

    def log_determinant(self, ridge: float | int = 0.0) -> Estimate:
        """Log det(A + ridge I), of positive definite A + ridge I.

        Minus infinity, with an infinite error, where a node plus the ridge is at or below the noise
        floor: a singular kernel, as of N O > P or of duplicated inputs, needs a ridge. Without a
        ridge the error is infinite too where the steps leave room for an eigenvalue at zero, as
        among many small ones: more steps or a ridge help.

        Raises:
          KernelInputError: the ridge is negative.
        """
        ridge = real_number("ridge", ridge, "a number to add to the diagonal, 0 or more", least=0)
        least, floor = min(float(nodes[0]) for nodes in self.nodes), self.noise_floor
        if least + ridge <= floor:
            return Estimate(-math.inf, math.inf)
        gauss = list(zip(self.nodes, self.weights, strict=True))
        # All eigenvalues are here or above it: of A at zero, or with A + ridge I above the floor.
        start = min(least - floor / 2, max(ridge, floor) - ridge)
        radau = [_radau(run, start) for run in self.runs]
        above, below = (
            self._mean([float(w @ np.log(theta + ridge)) for theta, w in rules])
            for rules in (gauss, radau)
        )
        room = self.size * float(np.mean([w[0] for theta, w in radau if theta[0] == start] or [0]))
        if ridge <= floor and room > _ROOM:
            return Estimate(above.value, math.inf)
        left = (above.value - below.value) / 2
        # n times what a node may be off by, eps lambda_max.
        rounding = floor * float(np.mean([w @ (1 / (t + ridge)) for t, w in gauss]))
        error = max(above.error, below.error) + abs(left) + rounding
        return Estimate(above.value - left, error)

    def _mean(self, values: list[float]) -> Estimate:
        mean, error = _mean_and_error(np.array(values))
        return Estimate(self.size * mean, self.size * error)


# How much of an eigenvalue at zero may be left open: one has a weight of 1 / n on average, and with
# ten probes less than a tenth of it in one run of ten millions.
_ROOM = 0.1


def _mean_and_error(samples: np.ndarray) -> tuple[float, float]:
    """The mean of independent samples, and by how much one in three such means is off."""
    count = len(samples)
    if count < 2:
        return float(np.mean(samples)), math.inf
    # Student's t where the normal distribution has 1 (M. Abramowitz, I. Stegun, *Handbook of
    # Mathematical Functions*, 26.7.5); 1.5 % too small for two samples, exact to 4 digits for ten.
    v = count - 1
    student = 1 + 1 / (2 * v) + 1 / (4 * v**2) + 1 / (16 * v**3)
    return float(np.mean(samples)), student * float(np.std(samples, ddof=1)) / math.sqrt(count)


def _radau(run: Tridiagonal, start: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes, ascending, and weights of Radau's quadrature with a node at `start`, below all others.

    That of Gauss where the Krylov space is exhausted, as that is exact.
    """
    if not run.exhausted:
        run = run.with_value(start)
    nodes, vectors = run.eigh()
    if not run.exhausted:
        nodes[0] = start
    return nodes, vectors[0] ** 2


def spectral_density(
    operator: SymmetricOperator,
    *,
    steps: int = 40,
    probes: int = 10,
    key: jax.Array | None = None,
) -> SpectralDensity:
    """The spectral density by stochastic Lanczos quadrature, at steps times probes products.

    Args:
      operator: a `KernelOperator` or `MatrixOperator`.
      steps: of each probe, at most n: what they resolve of the spectrum.
      probes: errors fall with their square root.
      key: of the probes; `jax.random.key(0)` by default.

    Raises:
      KernelInputError: fewer than two probes, from which there is no error, or no step.
      NonFiniteKernelError: a product has NaN or infinite entries.
      ModuleNotFoundError: matfree is not installed.
    """
    probes = whole_number("probes", probes, "2 probes or more, for an error", least=2)
    steps = whole_number("steps", steps, "how many products for each probe, 1 or more")
    n = math.prod(checked_operator(operator).shape)
    key = checked_key(key)
    starts = jax.random.normal(key, (probes, *operator.shape), operator.dtype)
    runs = jax.device_get(run_each(operator, starts, min(steps, n)))
    eps = float(jnp.finfo(operator.dtype).eps)
    sound = [cut(h, beta, off, size, eps, n) for h, beta, off, size in zip(*runs, strict=True)]
    rules = [run.eigh() for run in sound]
    nodes, weights = [theta for theta, _ in rules], [vectors[0] ** 2 for _, vectors in rules]
    return SpectralDensity(nodes, weights, sound, n, eps)


def operator_trace(
    operator: SymmetricOperator, *, probes: int = 20, key: jax.Array | None = None
) -> Estimate:
    """The trace by Hutch++, at two products a probe; exact, at n products, where 2 probes >= n.

    Args:
      operator: a `KernelOperator` or `MatrixOperator`.
      probes: 2 or more; two of three find the space on which the trace is exact.
      key: of the probes; `jax.random.key(0)` by default.

    Raises:
      KernelInputError: fewer than two probes, from which there is no error.
      NonFiniteKernelError: a product has NaN or infinite entries.
    """
    probes = whole_number("probes", probes, "2 or more, of which the error is taken", least=2)
    key = checked_key(key)
    n = math.prod(checked_operator(operator).shape)
    if 2 * probes >= n:
        diagonal = np.asarray(_diagonal(operator), np.float64)
        value, error = float(diagonal.sum()), 0.0
    else:
        samples, scale = jax.device_get(_hutchpp(operator, key, probes))
        mean, spread = _mean_and_error(np.asarray(samples, np.float64))
        value, error = float(scale) * mean, float(scale) * spread
    if not math.isfinite(value):
        msg = "The trace is NaN or infinite: products with the operator are not finite."
        raise NonFiniteKernelError(msg)
    rounding = 4 * math.sqrt(n) * float(jnp.finfo(operator.dtype).eps) * abs(value)
    return Estimate(value, error + rounding)


@jax.jit
def _diagonal(operator: Any) -> jax.Array:
    n = math.prod(operator.shape)

    def entry(i: jax.Array) -> jax.Array:
        unit = jnp.zeros(n, operator.dtype).at[i].set(1)
        return operator.matvec(unit.reshape(operator.shape)).ravel()[i]

    return jax.lax.map(entry, jnp.arange(n))


@functools.partial(jax.jit, static_argnames="probes")
def _hutchpp(operator: Any, key: jax.Array, probes: int) -> tuple[jax.Array, jax.Array]:
    """Independent samples of the trace over a scale, given what the sketch found; and the scale."""
    n, sketched = math.prod(operator.shape), max(1, 2 * probes // 3)
    of_sketch, of_rest = jax.random.split(key)

    def products(vectors: jax.Array) -> jax.Array:  # [k, n]
        shaped = vectors.reshape(-1, *operator.shape)
        return jax.lax.map(operator.matvec, shaped).reshape(vectors.shape)

    image = products(jax.random.normal(of_sketch, (sketched, n), operator.dtype))
    # Squares of entries neither over- nor underflow when the operator is scaled.
    size = jnp.max(jnp.abs(image))
    scale = jnp.where(size > 0, size, 1)
    with jax.default_matmul_precision("highest"):
        basis = jnp.linalg.qr((image / scale).T)[0].T  # [k, n]
        found = jnp.sum(basis * (products(basis) / scale))
        rest = jax.random.normal(of_rest, (2 * (probes - sketched), n), operator.dtype)
        for _ in range(2):  # twice is enough (Parlett)
            rest = rest - (rest @ basis.T) @ basis
        # Uniform on the sphere in the complement: the identity there has no variance.
        unit = rest / jnp.linalg.norm(rest, axis=1, keepdims=True)
        samples = (n - sketched) * jnp.sum(unit * (products(unit) / scale), axis=1)
    return found + samples, scale
