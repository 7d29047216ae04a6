r"""Linearised training and kernel ridge regression from products with the kernel alone.

    ridge:  (Theta + r I) a = y - f_0,    f(x) = f_0(x) + Theta(x, X) a
    flow:   a_t = Theta^-1 (I - exp(-t h Theta)) (y - f_0)  ~  ||y - f_0|| Q g(T) e_1

The linear system is solved by conjugate gradients of lineax, which stop at a relative residual; the
residual that is reported is computed anew. Time t of gradient flow is a function of Lanczos' T,
started at the residual (Y. Saad, *Analysis of Some Krylov Subspace Approximations to the Matrix
Exponential Operator*, SIAM J. Numer. Anal. 29, 1992, section 2). The limits meet: a_t tends to the
a of r = 0 (J. Lee et al., NeurIPS 2019, section 2.2), where the kernel is regular.

>>> import jax.numpy as jnp
>>> from ntk_train.spectrum.lanczos import MatrixOperator
>>> operator = MatrixOperator(jnp.diag(jnp.array([2.0, 4.0])))
>>> kernel_ridge(operator, jnp.array([2.0, 4.0])).coefficients.round(4).tolist()
[1.0, 1.0]
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._arguments import real_array, real_number, whole_number
from ntk_train.errors import KernelInputError
from ntk_train.spectrum.lanczos import SymmetricOperator, checked_operator, tridiagonalise
from ntk_train.spectrum.learning_rate import SquaredLoss
from ntk_train.spectrum.linearised import check_squared, checked_rate, checked_time, response


@dataclasses.dataclass(frozen=True, eq=False)
class Coefficients:
    """A function sum_i a_i Theta(x, x_i): `operator.cross(a, x)` evaluates it.

    Attributes:
      coefficients: a, of the operator's shape.
      error: relative: of the residual for a linear system; for gradient flow, by how much the
        last tenth of the steps still changed a.
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

    Args:
      operator: a `KernelOperator` or `MatrixOperator`.
      residual: y - f_0 of the operator's shape.
      ridge: added to the diagonal; 0 needs a regular kernel.
      rtol: relative residual at which to stop.
      max_steps: by default ten times the dimension. See `error` for how far it came.

    Raises:
      KernelInputError: the residual has another shape, the ridge is negative, or an argument is no
        finite number.
      DtypeError: the residual is complex.
      ModuleNotFoundError: lineax is not installed.
    """
    residual = _checked(operator, residual)
    ridge = real_number("ridge", ridge, "a number to add to the diagonal, 0 or more", least=0)
    rtol = real_number("rtol", rtol, "a relative residual, from 0 to below 1", least=0, below=1)
    limit = 10 * math.prod(operator.shape)
    if max_steps is not None:
        limit = whole_number("max_steps", max_steps, "how many steps at most, 1 or more, or None")
    a, steps = _solve(operator, residual, jnp.asarray(ridge, residual.dtype), rtol, limit)
    left = residual - _shifted(operator, a, ridge)
    size = float(jnp.linalg.norm(residual))
    return Coefficients(a, float(jnp.linalg.norm(left)) / size if size else 0.0, int(steps))


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
    size = float(jnp.linalg.norm(residual))
    if not size:
        return Coefficients(residual, 0.0, 0)
    n, o = (*operator.shape, 1)[:2]
    run, rows = tridiagonalise(operator, residual, min(steps, math.prod(operator.shape)))

    def coefficients(count: int) -> np.ndarray:
        theta, vectors = run.eigh(count)
        gain = response(np.maximum(theta, 0), time, loss.curvature(n, o), learning_rate).gain
        return size * (vectors @ (gain * vectors[0])) @ rows[:count]

    count = len(run.diagonal)
    a = coefficients(count)
    error = 0.0
    if not run.exhausted:
        before = coefficients(max(1, count - max(1, count // 10)))
        error = float(np.linalg.norm(a - before) / np.linalg.norm(a))
    return Coefficients(jnp.asarray(a.reshape(operator.shape), residual.dtype), error, count)


def _checked(operator: SymmetricOperator, residual: Any) -> jax.Array:
    shape = checked_operator(operator).shape
    residual = real_array("residual", residual, f"finite numbers {list(shape)}, targets - outputs")
    residual = jnp.asarray(residual, operator.dtype)
    if residual.shape != operator.shape:
        msg = f"residual has shape {residual.shape}; the operator takes {operator.shape}."
        raise KernelInputError(msg)
    return residual


def _shifted(operator: Any, v: jax.Array, ridge: Any) -> jax.Array:
    return operator.matvec(v) + ridge * v


@functools.partial(jax.jit, static_argnames=("rtol", "max_steps"))
def _solve(
    operator: Any, residual: jax.Array, ridge: jax.Array, rtol: float | int, max_steps: int
) -> tuple[jax.Array, jax.Array]:
    try:
        import lineax
    except ModuleNotFoundError as error:
        msg = "Linear solves need lineax: pip install 'ntk_train[operator]'."
        raise ModuleNotFoundError(msg) from error
    shifted = lineax.FunctionLinearOperator(
        lambda v: _shifted(operator, v, ridge),
        jax.eval_shape(lambda: residual),
        tags=lineax.positive_semidefinite_tag,
    )
    solver = lineax.CG(rtol=rtol, atol=0.0, max_steps=max_steps)
    solution = lineax.linear_solve(shifted, residual, solver=solver, throw=False)
    return solution.value, solution.stats["num_steps"]
