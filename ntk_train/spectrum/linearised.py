r"""What training would do if the network were linear in its parameters, at the kernel of now.

    f_t(X) = y + exp(-t h Theta) (f_0(X) - y)
    f_t(x) = f_0(x) + Theta(x, X) Theta^-1 (I - exp(-t h Theta)) (y - f_0(X))

for gradient flow of a squared loss with Hessian h I in the outputs, from the outputs f_0 (J. Lee et
al., *Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent*, NeurIPS
2019, equations 8 to 11, where h = 1). Gradient descent with rate eta has (I - eta h Theta)^k in
place of the exponential. Theta is never inverted: Theta^-1 (I - exp(-t h Theta)) is the function
-expm1(-t h lambda) / lambda of its eigenvalues, which is t h at 0, where nothing is learned on X.

>>> import numpy as np
>>> kernel = np.array([[2.0]]).reshape(1, 1, 1, 1)
>>> model = LinearisedTraining(kernel, np.zeros((1, 1)), np.ones((1, 1)), SquaredLoss(mean="none"))
>>> model.loss(0.0), round(model.loss(1.0) / (0.5 * float(np.exp(-4.0))), 12)
(0.5, 1.0)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ntk_train.errors import KernelInputError
from ntk_train.spectrum.eigen import checked_matrix, rounding_of
from ntk_train.spectrum.learning_rate import SquaredLoss


class LinearisedTraining:
    """Training of the linearised network on a squared loss, from a dense kernel.

    Args:
      kernel: [N, O, N, O], or [N, N] of one output.
      outputs: [N, O], f_0 on the training inputs.
      targets: [N, O].
      loss: with what it is divided by.
      learning_rate: None for gradient flow, whose times are eta times the number of steps; or the
        rate of gradient descent, whose times are steps.

    Raises:
      KernelInputError: shapes do not fit, or values are not finite.
      DtypeError, NonFiniteKernelError: as `kernel_spectrum`.
    """

    def __init__(
        self,
        kernel: Any,
        outputs: Any,
        targets: Any,
        loss: SquaredLoss,
        learning_rate: float | int | None = None,
    ) -> None:
        matrix = checked_matrix(kernel)
        self._outputs = np.asarray(outputs, np.float64)
        n, o = self._outputs.shape if self._outputs.ndim == 2 else (-1, 1)
        aims = np.asarray(targets, np.float64)
        fits = n * o == len(matrix) and aims.shape == (n, o)
        if not fits or not np.all(np.isfinite(aims - self._outputs)):
            msg = (
                f"outputs {np.shape(outputs)} and targets {np.shape(targets)} do not fit a kernel "
                f"{np.shape(kernel)}: expected finite numbers [N, O] for a full kernel."
            )
            raise KernelInputError(msg)
        values, self._vectors = np.linalg.eigh(matrix)
        # An eigenvalue that is noise is as good as zero; a negative one would grow without bound.
        floor = len(values) * rounding_of(kernel) * max(float(values[-1]), 0.0)
        self._values = np.where(values <= floor, 0.0, values)
        self._residual = self._vectors.T @ (aims - self._outputs).ravel()
        self._curvature = loss.curvature(n, o)
        self._rate = learning_rate

    def train_outputs(self, time: float | int) -> np.ndarray:
        """Outputs [N, O] on the training inputs after a time (gradient flow) or number of steps."""
        learned = response(self._values, time, self._curvature, self._rate).learned
        return self._outputs + (self._vectors @ (learned * self._residual)).reshape(
            self._outputs.shape
        )

    def test_outputs(self, time: float | int, cross: Any, outputs: Any) -> np.ndarray:
        """Outputs [M, O] on other inputs.

        Args:
          time: as in `train_outputs`.
          cross: [M, O, N, O], `ntk(f, params, x_test, x_train)`.
          outputs: [M, O], f_0 on the other inputs.
        """
        gain = response(self._values, time, self._curvature, self._rate).gain
        coefficients = self._vectors @ (gain * self._residual)
        outputs = np.asarray(outputs, np.float64)
        cross = np.asarray(cross, np.float64).reshape(outputs.size, -1)
        return outputs + (cross @ coefficients).reshape(outputs.shape)

    def loss(self, time: float | int) -> float:
        """The loss on the training inputs, for comparison with the actual one."""
        left = response(self._values, time, self._curvature, self._rate).left
        return self._curvature / 2 * float(np.sum((left * self._residual) ** 2))


class Response(NamedTuple):
    """What training does to the residual along each eigenvector.

    Attributes:
      left: the share that is left.
      learned: 1 - left, without its cancellation.
      gain: learned over the eigenvalue, in the limit where that is 0.
    """

    left: np.ndarray
    learned: np.ndarray
    gain: np.ndarray


def response(
    values: np.ndarray, time: float | int, curvature: float, rate: float | int | None
) -> Response:
    """The functions of the eigenvalues that make up linearised training.

    Args:
      values: eigenvalues, none negative.
      time: eta times steps if rate is None, else whole steps.
      curvature: h.
      rate: eta of gradient descent, or None for gradient flow.
    """
    if rate is None:
        at_zero = time * curvature
        left = np.exp(-at_zero * values)
        learned = -np.expm1(-at_zero * values)
    else:
        at_zero = time * rate * curvature
        step = rate * curvature * values
        left = (1 - step) ** int(time)
        small = step < 0.5
        learned = np.where(small, -np.expm1(time * np.log1p(-np.where(small, step, 0))), 1 - left)
    positive = values > 0
    return Response(
        left, learned, np.where(positive, learned / np.where(positive, values, 1), at_zero)
    )


def loss_departure(
    actual: Sequence[float] | np.ndarray, predicted: Sequence[float] | np.ndarray
) -> np.ndarray:
    """(actual - predicted) / predicted at the first time: how far training is from linear.

    0 where the network trains like its linearisation; positive where it is slower.

    Args:
      actual: losses of the run, from the time of the kernel on.
      predicted: `LinearisedTraining.loss` at the same times.

    Raises:
      KernelInputError: their lengths differ, or the first predicted loss is not positive.
    """
    found, linear = np.asarray(actual, np.float64), np.asarray(predicted, np.float64)
    if found.shape != linear.shape or found.ndim != 1 or not found.size:
        msg = f"actual has shape {found.shape}, predicted {linear.shape}; expected equal [T]."
        raise KernelInputError(msg)
    if not linear[0] > 0:
        msg = f"predicted starts at {linear[0]}; expected a positive loss to measure against."
        raise KernelInputError(msg)
    return (found - linear) / linear[0]
