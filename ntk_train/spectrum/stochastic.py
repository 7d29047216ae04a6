r"""Trace, spectral density and log-determinant of an operator from random probes, with errors.

    trace f(A) = E[z^T f(A) z]  ~  n mean_p sum_i w_pi f(theta_pi),   z uniform on the sphere

theta and w are nodes and squared first components of the eigenvectors of Lanczos' tridiagonal
matrix: a Gauss quadrature of the spectral measure of z (S. Ubaru, J. Chen, Y. Saad, *Fast
Estimation of tr(f(A)) via Stochastic Lanczos Quadrature*, SIAM J. Matrix Anal. Appl. 38, 2017; as a
spectral density in training B. Ghorbani, S. Krishnan, Y. Xiao, ICML 2019). The trace comes from
XTrace (E. Epperly, J. Tropp, R. Webber, *XTrace: Making the Most of Every Sample in Stochastic
Trace Estimation*, SIAM J. Matrix Anal. Appl. 45, 2024), as matfree has it.

An error is one standard deviation: about one result in three is further off.

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
    checked_key,
    checked_operator,
    cut,
    matfree_module,
    run_each,
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and the standard deviation of its error."""

    value: float
    error: float


@dataclasses.dataclass(frozen=True, eq=False)
class SpectralDensity:
    """The eigenvalues of an operator as a measure: points with weights that sum to n.

    Attributes:
      nodes: for each probe its Ritz values, ascending.
      weights: for each probe their weights, which sum to 1.
      coarse: nodes and weights of half of the steps, to see what more steps would change.
      size: n, the number of eigenvalues.
      eps: of the dtype of the products; below n eps lambda_max a node is noise.
    """

    nodes: list[np.ndarray]
    weights: list[np.ndarray]
    coarse: list[tuple[np.ndarray, np.ndarray]]
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
        floor: a singular kernel, as of N O > P or of duplicated inputs, needs a ridge.

        Raises:
          KernelInputError: the ridge is negative.
        """
        ridge = real_number("ridge", ridge, "a number to add to the diagonal, 0 or more", least=0)
        least = min(float(nodes[0]) for nodes in self.nodes)
        if least + ridge <= self.noise_floor:
            return Estimate(-math.inf, math.inf)
        fine = [
            float(weights @ np.log(nodes + ridge))
            for nodes, weights in zip(self.nodes, self.weights, strict=True)
        ]
        coarse = [float(weights @ np.log(nodes + ridge)) for nodes, weights in self.coarse]
        found = self._mean(fine)
        # Gauss quadratures of the logarithm come down to their limit: what half of the steps
        # are above it bounds in practice what is left.
        left = self.size * abs(float(np.mean(fine) - np.mean(coarse)))
        return Estimate(found.value, math.hypot(found.error, left))

    def _mean(self, values: list[float]) -> Estimate:
        count = len(values)
        spread = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else math.inf
        return Estimate(self.size * float(np.mean(values)), self.size * spread)


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
    nodes, weights, coarse = [], [], []
    for h, beta, defect, scale in zip(*runs, strict=True):
        sound = cut(h, beta, defect, scale, eps)
        theta, vectors = sound.eigh()
        nodes.append(theta)
        weights.append(vectors[0] ** 2)
        # An exhausted Krylov space leaves no error of the quadrature.
        half = None if sound.exhausted or steps >= n else (len(theta) + 1) // 2
        theta, vectors = sound.eigh(half)
        coarse.append((theta, vectors[0] ** 2))
    return SpectralDensity(nodes, weights, coarse, n, eps)


def operator_trace(
    operator: SymmetricOperator, *, probes: int = 20, key: jax.Array | None = None
) -> Estimate:
    """The trace by XTrace, at two products a probe; exact, at n products, where 2 probes >= n.

    Args:
      operator: a `KernelOperator` or `MatrixOperator`.
      probes: 2 or more.
      key: of the probes; `jax.random.key(0)` by default.

    Raises:
      KernelInputError: fewer than two probes, from which there is no error.
      NonFiniteKernelError: a product has NaN or infinite entries.
      ModuleNotFoundError: matfree is not installed.
    """
    probes = whole_number("probes", probes, "2 or more, of which the error is taken", least=2)
    key = checked_key(key)
    n = math.prod(checked_operator(operator).shape)
    value, error, scale = map(float, _xtrace(operator, key, min(probes, n)))
    if not math.isfinite(value * scale):
        msg = "The trace is NaN or infinite: products with the operator are not finite."
        raise NonFiniteKernelError(msg)
    rounding = 4 * math.sqrt(n) * float(jnp.finfo(operator.dtype).eps) * abs(value)
    return Estimate(scale * value, scale * math.hypot(error, rounding))


@functools.partial(jax.jit, static_argnames="probes")
def _xtrace(operator: Any, key: jax.Array, probes: int) -> tuple:
    stochtrace = matfree_module("stochtrace")
    like = jnp.zeros(operator.shape, operator.dtype)
    start = jax.random.normal(key, operator.shape, operator.dtype)
    # matfree compares a rank with an absolute threshold, so the operator is scaled.
    size = jnp.max(jnp.abs(operator.matvec(start)))
    scale = jnp.where(size > 0, size, 1)
    estimate = stochtrace.estimator_leave_one_out_mean_and_sem(
        stochtrace.leave_one_out_xtrace(), stochtrace.sampler_normal(like, num=probes)
    )
    with jax.default_matmul_precision("highest"):
        mean, error = estimate(lambda v: operator.matvec(v) / scale, key)
    return mean, error, scale
