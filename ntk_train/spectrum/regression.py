r"""Linearised training and kernel ridge regression from products with the kernel alone.

    ridge:  (Theta + r I) a = y - f_0,    f(x) = f_0(x) + Theta(x, X) a
    flow:   a_t = Theta^-1 (I - exp(-t h Theta)) (y - f_0)  ~  ||y - f_0|| Q g(T) e_1

The linear system is solved by conjugate gradients (M. Hestenes, E. Stiefel, *Methods of Conjugate
Gradients for Solving Linear Systems*, J. Res. Natl. Bur. Stand. 49, 1952) with what float32 needs.
The residual is computed anew every few steps, its norm says when to stop, and what is returned is
the smoothed iterate, whose residual never rises (L. Zhou, H. Walker, *Residual Smoothing Techniques
for Iterative Methods*, SIAM J. Sci. Comput. 15, 1994, equation 2.2). Time t of gradient flow is a
function of Lanczos' T, started at the residual (Y. Saad, *Analysis of Some Krylov Subspace
Approximations to the Matrix Exponential Operator*, SIAM J. Numer. Anal. 29, 1992, section 2). The
limits meet: a_t tends to the a of r = 0 (J. Lee et al., NeurIPS 2019, section 2.2), where the
kernel is regular.

>>> import jax.numpy as jnp
>>> from ntk_train.spectrum.lanczos import MatrixOperator
>>> operator = MatrixOperator(jnp.diag(jnp.array([2.0, 4.0])))
>>> kernel_ridge(operator, jnp.array([2.0, 4.0])).coefficients.round(4).tolist()
[1.0, 1.0]
"""

import dataclasses
import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._arguments import real_array, real_number, whole_number
from ntk_train.errors import ConvergenceWarning, KernelInputError, NonFiniteKernelError
from ntk_train.spectrum.flow_error import rounded, unresolved
from ntk_train.spectrum.lanczos import SymmetricOperator, checked_operator, tridiagonalise
from ntk_train.spectrum.learning_rate import SquaredLoss
from ntk_train.spectrum.linearised import check_squared, checked_rate, checked_time, response


@dataclasses.dataclass(frozen=True, eq=False)
class Coefficients:
    """A function sum_i a_i Theta(x, x_i): `operator.cross(a, x)` evaluates it.

    Attributes:
      coefficients: a, of the operator's shape.
      error: relative: of the residual for a linear system; for gradient flow an upper bound of
        the norm by which a is off over that of a, infinite where none is known.
      steps: of the solver; for gradient flow the number of products, less where these were all.
    """

    coefficients: jax.Array
    error: float
    steps: int


def kernel_ridge(
    operator: SymmetricOperator,
    residual: Any,
    *,
    ridge: float | int = 0.0,
    rtol: float | int = 1e-5,
    max_steps: int | None = None,
) -> Coefficients:
    """Solves (Theta + ridge I) a = residual by conjugate gradients.

    The iterate of the smallest residual is returned, however far it came: compare `error` with
    rtol. A `ConvergenceWarning` says that it stayed above, why, and what helps.

    Args:
      operator: a `KernelOperator` or `MatrixOperator`.
      residual: y - f_0 of the operator's shape.
      ridge: added to the diagonal; 0 needs a regular kernel.
      rtol: at which to stop, of the norm of what is left over that of the residual. Rounding keeps
        it above eps of the operator's dtype times its condition number, or less.
      max_steps: by default ten times the dimension.

    Raises:
      KernelInputError: the residual has another shape, the ridge is negative, or an argument is no
        finite number.
      DtypeError: the residual is complex.
      NonFiniteKernelError: a product has NaN or infinite entries.
    """
    residual = _checked(operator, residual)
    ridge = real_number("ridge", ridge, "a number to add to the diagonal, 0 or more", least=0)
    rtol = real_number("rtol", rtol, "a relative residual, from 0 to below 1", least=0, below=1)
    limit = 10 * math.prod(operator.shape)
    if max_steps is not None:
        limit = whole_number("max_steps", max_steps, "how many steps at most, 1 or more, or None")
    target, size = _unit(residual)
    if not size:
        return Coefficients(residual, 0.0, 0)
    scale = _scale(operator, target, ridge)
    best, left, taken = _conjugate_gradients(operator, target, ridge / scale, scale, rtol, limit)
    error, steps = float(left), int(taken)
    if error > rtol:
        _warn_of_residual(error, rtol, steps, limit)
    return Coefficients(best * (size / scale), error, steps)


def gradient_flow(
    operator: SymmetricOperator,
    residual: Any,
    loss: SquaredLoss,
    time: float | int,
    *,
    learning_rate: float | int | None = None,
    steps: int = 60,
) -> Coefficients:
    """Coefficients of the linearised network after a time, as `LinearisedTraining` has them.

    Args:
      operator: of a full kernel, [N, O].
      residual: y - f_0 of the operator's shape.
      loss: with what it is divided by.
      time: as in `LinearisedTraining`, as is learning_rate.
      learning_rate: of gradient descent, or None.
      steps: products with the kernel; more are needed the longer the time.

    Raises:
      KernelInputError: the residual has another shape, or an argument is no number of its kind.
      DtypeError: the residual is complex.
      NonFiniteKernelError: a product has NaN or infinite entries.
      ModuleNotFoundError: matfree is not installed.
    """
    residual = _checked(operator, residual)
    check_squared(loss)
    learning_rate = checked_rate(learning_rate)
    time = checked_time(time, learning_rate)
    steps = whole_number("steps", steps, "how many products, 1 or more")
    target, size = _unit(residual)
    if not size:
        return Coefficients(residual, 0.0, 0)
    n, o = (*operator.shape, 1)[:2]
    run, rows = tridiagonalise(operator, target, min(steps, math.prod(operator.shape)))

    theta, vectors = run.eigh()
    pace = time, loss.curvature(n, o), learning_rate
    gain = response(np.maximum(theta, 0), *pace).gain
    y = vectors @ (gain * vectors[0])
    error = 0.0
    if np.any(y):
        rounding = rounded(run, *pace) + 4 * float(jnp.finfo(residual.dtype).eps)
        error = unresolved(run, *pace) / float(np.linalg.norm(y)) + rounding
    a = (size * y @ rows).reshape(operator.shape)
    return Coefficients(jnp.asarray(a, residual.dtype), float(error), len(run.diagonal))


def _checked(operator: SymmetricOperator, residual: Any) -> jax.Array:
    shape = checked_operator(operator).shape
    residual = real_array("residual", residual, f"finite numbers {list(shape)}, targets - outputs")
    residual = jnp.asarray(residual, operator.dtype)
    if residual.shape != operator.shape:
        msg = f"residual has shape {residual.shape}; the operator takes {operator.shape}."
        raise KernelInputError(msg)
    return residual


def _unit(v: jax.Array) -> tuple[jax.Array, float]:
    """A vector of unit norm, and the norm, whose square may be too small for the dtype."""
    size = float(jnp.max(jnp.abs(v)))
    if not size:
        return v, 0.0
    length = float(jnp.linalg.norm(v / size))
    return v / size / length, size * length


def _scale(operator: Any, target: jax.Array, ridge: float) -> float:
    """The size of a product, by which all are divided: squares then neither over- nor underflow."""
    size = float(jnp.max(jnp.abs(operator.matvec(target) + ridge * target)))
    if not math.isfinite(size):
        msg = (
            "A product with the operator has NaN or infinite entries: parameters, inputs or "
            "outputs of the network are not finite, or overflow."
        )
        raise NonFiniteKernelError(msg)
    return size or 1.0


@jax.jit
def _conjugate_gradients(
    operator: Any,
    target: jax.Array,
    ridge: jax.Array,
    scale: jax.Array,
    rtol: jax.Array,
    limit: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best iterate, the norm of its residual, and how many steps were taken.

    Args:
      operator: symmetric, positive semidefinite.
      target: right side of (Theta / scale + ridge) x = target, of unit norm.
      ridge: in units of the scale.
      scale: see `_scale`.
      rtol: norm of the residual at which to stop.
      limit: of the steps.
    """

    def product(v: jax.Array) -> jax.Array:
        return operator.matvec(v) / scale.astype(v.dtype) + ridge.astype(v.dtype) * v

    def is_unfinished(state: _Iteration) -> jax.Array:
        is_sound = (state.curvature > 0) & jnp.isfinite(state.square)
        # In exact arithmetic there are no more steps than dimensions.
        is_stuck = state.steps - state.fallen_at > target.size
        return is_sound & ~is_stuck & ~(state.left_square <= rtol**2) & (state.steps < limit)

    def step(state: _Iteration) -> _Iteration:
        image = product(state.direction)
        curvature = jnp.vdot(state.direction, image)
        length = jnp.where(curvature > 0, state.square / curvature, 0)
        x, residual = state.x + length * state.direction, state.residual - length * image
        # The recurrence goes on to fall where rounding keeps the residual itself from it.
        is_due = state.steps % _ANEW == _ANEW - 1
        residual = jax.lax.cond(is_due, lambda: target - product(x), lambda: residual)
        square = jnp.vdot(residual, residual)
        change = residual - state.left
        size = jnp.vdot(change, change)
        share = jnp.where(size > 0, -jnp.vdot(state.left, change) / size, 0)
        smooth, left = state.smooth + share * (x - state.smooth), state.left + share * change
        is_due = is_due | (jnp.vdot(left, left) <= rtol**2)
        left = jax.lax.cond(is_due, lambda: target - product(smooth), lambda: left)
        left_square = jnp.vdot(left, left)
        has_fallen = left_square < 0.98 * state.fallen_to
        return _Iteration(
            x=x,
            residual=residual,
            square=square,
            direction=residual + square / state.square * state.direction,
            curvature=curvature,
            smooth=smooth,
            left=left,
            left_square=left_square,
            fallen_to=jnp.where(has_fallen, left_square, state.fallen_to),
            fallen_at=jnp.where(has_fallen, state.steps, state.fallen_at),
            steps=state.steps + 1,
        )

    zero, square = jnp.zeros_like(target), jnp.vdot(target, target)
    first = _Iteration(
        x=zero,
        residual=target,
        square=square,
        direction=target,
        curvature=square,
        smooth=zero,
        left=target,
        left_square=square,
        fallen_to=square,
        fallen_at=jnp.zeros((), int),
        steps=jnp.zeros((), int),
    )
    last = jax.lax.while_loop(is_unfinished, step, first)
    return last.smooth, jnp.linalg.norm(target - product(last.smooth)), last.steps


_ANEW = 20  # steps, after which residuals are computed with products of their own


class _Iteration(NamedTuple):
    """One step of conjugate gradients.

    Attributes:
      x: the iterate.
      residual: target - A x.
      square: its squared norm.
      direction: of the next step.
      curvature: direction^T A direction, of the last step.
      smooth: the smoothed iterate.
      left: target - A smooth.
      left_square: its squared norm.
      fallen_to: the last value of that which was clearly below the one before.
      fallen_at: its step.
      steps: how many were taken.
    """

    x: jax.Array
    residual: jax.Array
    square: jax.Array
    direction: jax.Array
    curvature: jax.Array
    smooth: jax.Array
    left: jax.Array
    left_square: jax.Array
    fallen_to: jax.Array
    fallen_at: jax.Array
    steps: jax.Array


def _warn_of_residual(error: float, rtol: float, steps: int, limit: int) -> None:
    remedy = (
        f"Raise max_steps={limit}, or the ridge."
        if steps >= limit
        else "Rounding allows no less: raise the ridge or rtol, or compute in float64."
    )
    msg = (
        f"kernel_ridge came to a relative residual of {error:.2g} in {steps} steps, above "
        f"rtol={rtol:g}; the best coefficients are returned. {remedy}"
    )
    warnings.warn(msg, ConvergenceWarning, stacklevel=3)
