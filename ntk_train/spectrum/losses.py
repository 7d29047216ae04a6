"""The losses whose curvature in the outputs is known, with what they are divided by.

>>> CrossEntropy("positions", classes=10).divisor(n=4, o=30)  # 4 texts of 3 tokens
12
>>> SquaredLoss(mean="entries").curvature(n=4, o=2)
0.125
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ntk_train._arguments import check_type, whole_number, yes_or_no
from ntk_train.errors import KernelInputError


@dataclasses.dataclass(frozen=True)
class SquaredLoss:
    """sum (f - y)^2, halved or not, divided or not.

    Attributes:
      half: whether there is a factor 1/2.
      mean: "none" for the sum, "examples" for the sum over N, "entries" for the sum over N O.
    """

    half: bool = True
    mean: str = "entries"

    def __post_init__(self) -> None:
        """Refuses other means, and a `half` that is no bool."""
        yes_or_no("half", self.half, "True for a factor 1/2, or False")
        if self.mean not in ("none", "examples", "entries"):
            msg = f"mean={self.mean!r} is none of 'none', 'examples', 'entries'."
            raise KernelInputError(msg)

    def curvature(self, n: int, o: int) -> float:
        """The factor h in H = h I, for N examples with O outputs."""
        divisor = {"none": 1, "examples": n, "entries": n * o}[self.mean]
        return (1.0 if self.half else 2.0) / divisor


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """-log softmax(f)[label], summed over examples or averaged.

    Of one logit, with labels 0 and 1, it is -log sigmoid(f) or -log sigmoid(-f).

        CrossEntropy()                                  # logits [N, V]
        CrossEntropy("positions", classes=V)            # logits [N, T, V], the mean over N T tokens
        CrossEntropy(classes=(3, 5))                    # heads [N, 3] and [N, 5], their sum
        CrossEntropy(classes=1)                         # logits [N, T], a sigmoid each

    Attributes:
      mean: "examples" for the mean over N, of the sum over the softmaxes of an example; "positions"
        for the mean over all N T of them; "none" for the sum.
      classes: of each softmax. None where an example has one, over all its outputs. An integer V
        where the outputs of an example are T times V, those of a softmax beside each other, as
        they are with the classes on the last axis; integers for heads of different sizes, in the
        order of the outputs.
    """

    mean: str = "examples"
    classes: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuses other means, and classes that are no numbers of them."""
        if self.mean not in ("none", "examples", "positions"):
            msg = f"mean={self.mean!r} is none of 'none', 'examples', 'positions'."
            raise KernelInputError(msg)
        expected = "the classes of each softmax, as 10 or (3, 5), or None for a single softmax"
        if isinstance(self.classes, (tuple, list)):
            sizes = tuple(whole_number("classes", size, expected) for size in self.classes)
            object.__setattr__(self, "classes", sizes)
        elif self.classes is not None:
            object.__setattr__(self, "classes", whole_number("classes", self.classes, expected))

    def softmaxes(self, o: int) -> tuple[int, ...]:
        """How many classes each softmax of an example has, in the order of its O outputs.

        Raises:
          KernelInputError: they do not add up to O.
        """
        if self.classes is None:
            return (o,)
        if isinstance(self.classes, int):
            sizes = (self.classes,) * (o // self.classes)
        else:
            sizes = self.classes
        if sum(sizes) != o:
            msg = (
                f"classes={self.classes} does not fit {o} outputs of an example; expected a "
                "divisor of that number, or numbers that add up to it."
            )
            raise KernelInputError(msg)
        return sizes

    def divisor(self, n: int, o: int) -> int:
        """By what the sum over N examples is divided."""
        return {"none": 1, "examples": n, "positions": n * len(self.softmaxes(o))}[self.mean]


def check_softmaxes(loss: CrossEntropy, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuses outputs whose softmaxes the loss does not say.

    Args:
      loss: with its classes, or without.
      shapes: of each array of outputs, with the N examples on axis 0.

    Raises:
      KernelInputError: there are several arrays, or one with positions, and the loss takes all
        outputs for one softmax; or a softmax of the loss has parts of two of them.
    """
    last_axes = [
        shape[-1] if len(shape) > 1 else 1
        for shape in shapes
        for _ in range(math.prod(shape[1:-1]))
    ]
    if len(last_axes) == 1 and loss.classes is None:
        return
    found = " and ".join(str(list(shape)) for shape in shapes)
    example = last_axes[0] if len(set(last_axes)) == 1 else tuple(last_axes[:4])
    if loss.classes is None:
        msg = (
            f"logits has shape {found}: an example has {len(last_axes)} softmaxes, and "
            f"{loss} takes all its outputs for one. Say CrossEntropy(classes={example}), and "
            "mean='positions' if the loss is the mean over all of them."
        )
        raise KernelInputError(msg)
    ends = np.cumsum(loss.softmaxes(sum(last_axes)))
    if not set(np.cumsum(last_axes)) <= set(ends):
        msg = (
            f"classes={loss.classes} does not fit logits of shape {found}: a softmax would have "
            f"parts of two of them. Say CrossEntropy(classes={example}), with classes last."
        )
        raise KernelInputError(msg)


def check_loss(loss: Any) -> None:
    """Refuses what is neither loss, such as its name or a function.

    Raises:
      KernelInputError: it is neither.
    """
    expected = "ntk_train.CrossEntropy() or ntk_train.SquaredLoss(), with what it is divided by"
    check_type("loss", loss, (SquaredLoss, CrossEntropy), expected)
