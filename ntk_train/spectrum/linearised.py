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

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ntk_train._arguments import (
    check_type,
    described,
    numeric_array,
    real_array,
    real_number,
    whole_number,
)
from ntk_train.errors import DtypeError, KernelInputError
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
      KernelInputError: shapes do not fit, values are not finite, the loss is another one, or the
        learning rate is negative.
      DtypeError, NonFiniteKernelError: as `kernel_spectrum`; the outputs or targets are complex.
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
        check_squared(loss)
        self._outputs = real_array("outputs", outputs, "finite numbers [N, O]")
        n, o = self._outputs.shape if self._outputs.ndim == 2 else (-1, 1)
        aims = real_array("targets", targets, "finite numbers [N, O]")
        if n * o != len(matrix) or aims.shape != (n, o):
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
        self._rate = checked_rate(learning_rate)

    def train_outputs(self, time: float | int) -> np.ndarray:
        """Outputs [N, O] on the training inputs after a time (gradient flow) or number of steps.

        Raises:
          KernelInputError: the time is negative, or no whole number of steps.
        """
        time = checked_time(time, self._rate)
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

        Raises:
          KernelInputError: the time is as `train_outputs` does not take it, or the arrays do not
            fit.
        """
        n, o = self._outputs.shape
        expected = f"finite numbers [M, {o}], the outputs on the other inputs"
        outputs = real_array("outputs", outputs, expected)
        if outputs.ndim != 2 or outputs.shape[1] != o:
            msg = f"outputs has shape {outputs.shape}; expected {expected}."
            raise KernelInputError(msg)
        m = len(outputs)
        expected = f"[M, O, N, O] = [{m}, {o}, {n}, {o}], as of ntk(f, params, x_test, x_train)"
        cross = real_array("cross", cross, f"finite numbers {expected}")
        if cross.shape not in ((m, o, n, o), (m * o, n * o)):
            msg = f"cross has shape {cross.shape}; expected {expected}."
            raise KernelInputError(msg)
        time = checked_time(time, self._rate)
        gain = response(self._values, time, self._curvature, self._rate).gain
        coefficients = self._vectors @ (gain * self._residual)
        return outputs + (cross.reshape(m * o, n * o) @ coefficients).reshape(outputs.shape)

    def loss(self, time: float | int) -> float:
        """The loss on the training inputs, for comparison with the actual one.

        Raises:
          KernelInputError: the time is as `train_outputs` does not take it.
        """
        time = checked_time(time, self._rate)
        left = response(self._values, time, self._curvature, self._rate).left
        return self._curvature / 2 * float(np.sum((left * self._residual) ** 2))


def checked_time(time: Any, rate: float | None) -> float | int:
    """A time of gradient flow, infinity too, or a number of steps of gradient descent.

    Raises:
      KernelInputError: it is neither.
    """
    if rate is None:
        expected = "learning rate times number of steps, 0 or more"
        return real_number("time", time, expected, least=0, or_infinite=True)
    expected = "a whole number of steps, 0 or more, as there is a learning_rate"
    return whole_number("time", time, expected, least=0)


def checked_rate(rate: Any) -> float | None:
    """The learning rate of gradient descent, None for gradient flow.

    Raises:
      KernelInputError: it is neither.
    """
    if rate is None:
        return None
    return real_number("learning_rate", rate, "0 or more, or None for gradient flow", least=0)


def check_squared(loss: Any) -> None:
    """Refuses another loss than the squared one, under which outputs follow no linear equation.

    Raises:
      KernelInputError: it is another.
    """
    expected = "ntk_train.SquaredLoss(): linearised training is known in closed form for it alone"
    check_type("loss", loss, SquaredLoss, expected)


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
      time: eta times steps, or infinity, if rate is None; else whole steps.
      curvature: h.
      rate: eta of gradient descent, or None for gradient flow.
    """
    positive = values > 0
    if rate is None:
        exponent = np.where(positive, -time * curvature * np.where(positive, values, 1), 0)
        left = np.exp(exponent)
        learned = -np.expm1(exponent)
        # Theta(x, X) u is 0 where Theta u is: at infinity any finite number does.
        at_zero = time * curvature if math.isfinite(time) else 0.0
    else:
        at_zero = time * rate * curvature
        step = rate * curvature * values
        left = (1 - step) ** int(time)
        small = step < 0.5
        learned = np.where(small, -np.expm1(time * np.log1p(-np.where(small, step, 0))), 1 - left)
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
    found, linear = _losses("actual", actual), _losses("predicted", predicted)
    if found.shape != linear.shape or found.ndim != 1 or not found.size:
        msg = f"actual has shape {found.shape}, predicted {linear.shape}; expected equal [T]."
        raise KernelInputError(msg)
    if not linear[0] > 0:
        msg = f"predicted starts at {linear[0]}; expected a positive loss to measure against."
        raise KernelInputError(msg)
    return (found - linear) / linear[0]


def _losses(name: str, values: Any) -> np.ndarray:
    """Losses in float64; those of a run that diverged may be NaN."""
    losses = numeric_array(name, values, "losses [T]")
    if np.iscomplexobj(losses):
        msg = f"{name} is {described(losses)}; expected losses [T], real numbers."
        raise DtypeError(msg)
    return losses.astype(np.float64)
