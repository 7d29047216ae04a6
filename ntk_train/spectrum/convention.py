"""What a kernel's numbers mean: the choices without which they cannot be compared.

The condition number of one network at one step depends on these by a factor of up to a hundred, so
every run states them beside its numbers.
"""

import dataclasses
from typing import Any

from ntk_train._arguments import check_type
from ntk_train.errors import ConventionError

# What the numbers of two different networks must still have in common to be compared.
_BETWEEN_NETWORKS = (
    "outputs",
    "examples",
    "num_examples",
    "num_outputs",
    "output_dtype",
    "kernel_dtype",
    "precision",
)
# Implementations differ by rounding only.
_WITHIN_A_RUN = (*_BETWEEN_NETWORKS, "function", "parameters", "num_parameters", "param_dtype")


@dataclasses.dataclass(frozen=True)
class Convention:
    """The choices behind the logged numbers.

    Attributes:
      function: the network, as its function describes itself.
      outputs: full, trace, sum, diagonal, or the chosen logits.
      examples: independent, and BatchNorm in eval mode; or coupled, as by BatchNorm in train mode.
      parameters: which parameters are differentiated.
      num_parameters: how many numbers these are (P).
      num_examples: probe inputs (N).
      num_outputs: outputs per example (O).
      param_dtype: dtypes of the parameters.
      output_dtype: dtypes of the outputs, in which the Jacobian is computed.
      kernel_dtype: dtype in which the kernel is computed.
      precision: of the matrix products, and in brackets what ran where it is not float32.
      implementation: the algorithm, `auto` already resolved.
    """

    function: str
    outputs: str
    examples: str
    parameters: str
    num_parameters: int
    num_examples: int
    num_outputs: int
    param_dtype: str
    output_dtype: str
    kernel_dtype: str
    precision: str
    implementation: str

    def hparams(self, prefix: str = "ntk") -> dict[str, str | int]:
        """A flat dict with keys `ntk/outputs` and so on, as metric writers take it."""
        return {f"{prefix}/{name}": value for name, value in dataclasses.asdict(self).items()}

    def describe(self) -> str:
        """A table in Markdown, as TensorBoard shows it."""
        rows = [
            f"| {name.replace('_', ' ')} | {value} |"
            for name, value in dataclasses.asdict(self).items()
        ]
        return "\n".join(["| convention | value |", "|---|---|", *rows])


def check_convention(convention: Any) -> None:
    """Refuses what is neither a convention nor None: labels that came in its place.

    Raises:
      KernelInputError: it is neither.
    """
    expected = "an ntk_train.Convention or None; labels are the argument labels="
    check_type("convention", convention, (Convention, type(None)), expected)


def check_comparable(
    first: Convention | None, second: Convention | None, *, same_network: bool = True
) -> None:
    """Refuses to compare numbers of two kernels that mean different things.

    Args:
      first: convention of one kernel; None, where none was stated, agrees only with None.
      second: convention of the other.
      same_network: whether both must be of one function and its parameters too.

    Raises:
      ConventionError: they differ; the text names both in what differs.
      KernelInputError: one is no convention.
    """
    check_convention(first)
    check_convention(second)
    if first is None or second is None:
        if first is not second:
            stated = first if second is None else second
            msg = f"one kernel states no convention, the other {stated}: state it for both."
            raise ConventionError(msg)
        return
    names = _WITHIN_A_RUN if same_network else _BETWEEN_NETWORKS
    differ = [name for name in names if getattr(first, name) != getattr(second, name)]
    if differ:
        one, other = (
            ", ".join(f"{name}={getattr(convention, name)!r}" for name in differ)
            for convention in (first, second)
        )
        msg = (
            f"The kernels have different conventions and their numbers cannot be compared: {one} "
            f"in the first, {other} in the second. Compute both in one of them."
        )
        raise ConventionError(msg)
