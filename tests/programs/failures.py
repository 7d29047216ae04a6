"""Programs on which a kernel was wrong once, as they were left by shrinking, and why.

`python -m tests.programs` prints an entry for each failure.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tests.programs.build import arguments
from tests.programs.parts import resized, rounded, standardised


@dataclasses.dataclass(frozen=True, eq=False)
class Failure:
    """A function of (p, x), and the shapes of its arguments as in `build.Text`."""

    function: Callable
    leaves: dict
    inputs: Any
    native: bool

    def case(self) -> tuple:
        """(f, params, x1, x2)."""
        f = self.function if self.native else jax.vmap(self.function, (None, 0))
        return f, *arguments(self.leaves, self.inputs)


FAILURES: list[Failure] = []


def failure(leaves: dict, inputs: Any, native: bool = False) -> Callable:
    """A decorator that keeps a function here."""

    def keep(function: Callable) -> Callable:
        FAILURES.append(Failure(function, leaves, inputs, native))
        return function

    return keep


@failure(
    leaves={"a": ((1,), "float64"), "c": ((12, 2), "float64"), "d": ((4, 2), "float64")},
    inputs=((4, 3), "float64"),
)
def cut_at_the_logarithm_of_a_complex_cosine(p, x):
    v0 = x * p["a"] + p["a"]
    v1 = v0.reshape((12,))
    v2 = v1 @ lax.complex(jnp.resize(p["a"], (12, 2)), p["c"])
    v3 = jnp.log(jnp.cosh(0.5 * v2))
    v4 = v3 @ p["d"].T
    return jnp.concatenate([v4.real, v4.imag], -1)


@failure(
    leaves={"a": ((2, 5), "float64"), "b": ((5, 2), "float64")},
    inputs=((5,), "float64"),
)
def last_layer_and_its_reverse(p, x):
    v2 = jnp.einsum("a,qp->aqp", x, p["a"])
    v7 = v2.sum(-1).sum(-1)
    v8 = v7 @ p["b"]
    return v8 + v8[..., ::-1]


@failure(
    leaves={"a": ((5, 2), "float64"), "b": ((6,), "float64")},
    inputs=((5,), "float64"),
)
def last_norm_shared_with_the_one_before(p, x):
    v1 = resized(x @ p["a"], (6,))
    v7 = 0.5 * (standardised(v1) * p["b"] + p["b"])
    return standardised(v7) * p["b"] + p["b"]


@failure(
    leaves={"c": ((1, 4), "float64"), "d": ((4,), "float64")},
    inputs=((6,), "float64"),
)
def bias_and_its_reverse(p, x):
    v18 = x.sum(-1, keepdims=True) @ p["c"]
    return v18 + (p["d"] + p["d"][::-1])


@failure(
    leaves={"a": ((3, 3), "float64"), "e": ((3,), "float64")},
    inputs=((3,), "float64"),
)
def last_layer_and_its_running_sum(p, x):
    v12 = (x * p["e"] + p["e"]) @ p["a"].T
    return v12 + jnp.cumsum(v12, -1)


@failure(leaves={"a": ((3, 3), "float64")}, inputs=((3,), "float64"))
def weight_and_its_negation(p, x):
    return jnp.tanh(jnp.tanh(x @ -p["a"]) @ p["a"]) @ p["a"]


@failure(
    leaves={"w": ((3, 2, 2, 3), "float64"), "b": ((3,), "float64")},
    inputs=((4, 2, 2), "float64"),
)
def convolution_without_positions(p, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(
        x[None], p["w"], (1, 1), "VALID", rhs_dilation=(1, 2), dimension_numbers=numbers
    )
    return y[0].sum(1).sum(0) + p["b"]


@failure(
    leaves={"a": ((3, 1), "float64"), "f": ((6, 1), "float64"), "g": ((1,), "float64")},
    inputs=((6,), "float64"),
)
def index_computed_with_a_custom_vjp(p, x):
    v20 = jnp.floor(jnp.abs(2.0 * rounded(x * p["a"][0]))).astype("uint16")
    v21 = p["a"][jnp.clip(v20, 0, 2)].sum(-1)
    v25 = v21 @ p["f"]
    return {"a": v25 + p["g"], "c": jnp.stack([v25, v25 + p["g"]], -1)}
