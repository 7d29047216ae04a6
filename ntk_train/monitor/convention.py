"""What a kernel's numbers mean: the choices without which they cannot be compared.

The condition number of one network at one step depends on these by a factor of up to a hundred, so
every run states them beside its numbers.
"""

import dataclasses


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
      precision: of the matrix products.
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
