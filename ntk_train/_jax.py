"""The only file that depends on the version of JAX or on `jax.extend`."""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core, source_info_util
from jax.extend.core import primitives

Literal = core.Literal
Var = core.Var
Equation = core.JaxprEqn
add_any_p = primitives.add_jaxvals_p  # sums of cotangents
scan_p = primitives.scan_p
cond_p = primitives.cond_p
while_p = primitives.while_p
linear_solve_p = primitives.linear_solve_p
custom_jvp_call_p = primitives.custom_jvp_call_p
custom_vjp_call_p = primitives.custom_vjp_call_p
unstack_p = getattr(jax.lax, "unstack_p", None)  # `for w in array`, in newer versions


def shape_of(v: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a variable or literal."""
    return jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype)


def size_of(v: Any) -> int:
    """How many entries a variable or literal has."""
    return math.prod(v.aval.shape)


def after(value: jax.Array, other: jax.Array) -> jax.Array:
    """A value that a compiler can compute only after another, so that memory is not in use before.

    A barrier of XLA's is gone before it orders its operations. What is added is 0: no number is
    above infinity, which is not known before.
    """
    if other.size == 0:
        return value
    return value + (jnp.ravel(other)[0] > jnp.inf).astype(value.dtype)


def equation_values(
    equation: Equation, values: Sequence[Any], *, differentiated: bool = False
) -> list[Any]:
    """The outputs of one equation for the values of its inputs.

    With `differentiated` a `custom_jvp` is replaced by its rule, which has lines of its own.
    """
    parameters = equation.primitive.get_bind_params(equation.params)
    functions: tuple[Any, ...] = ()
    if isinstance(parameters, tuple):  # a pair on older versions, where calls take functions
        functions, parameters = parameters
    line: Any = source_info_util.user_context(equation.source_info.traceback)  # for `source_line`
    if differentiated and equation.primitive is custom_jvp_call_p:
        line = contextlib.nullcontext()
    with line:
        out = equation.primitive.bind(*functions, *values, **parameters)
    return list(out) if equation.primitive.multiple_results else [out]


def program_by(
    evaluated: Callable[[Equation, list[Any]], list[Any]],
    jaxpr: Any,
    consts: Sequence[Any],
    inputs: Sequence[Any],
) -> list[Any]:
    """The outputs of a jaxpr for its inputs, each of its equations evaluated by a function."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else env[v]

    for equation in jaxpr.eqns:
        outputs = evaluated(equation, [read(v) for v in equation.invars])
        env.update(zip(equation.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def called_program(equation: Equation) -> tuple[Any, list[Any]] | None:
    """Jaxpr and constants of a call that can be inlined: jit and remat."""
    if equation.primitive not in _CALLS:
        return None
    called = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
    return getattr(called, "jaxpr", called), list(getattr(called, "consts", ()))


_CALLS = {
    primitives.jit_p,
    primitives.remat_p,
}


def public_primitive(name: str) -> Any:
    """The primitive that JAX publishes as `{name}_p`, or the name if it publishes none."""
    for module in (jax.lax, jax.lax.linalg, primitives):
        if hasattr(module, f"{name}_p"):
            return getattr(module, f"{name}_p")
    return name


def body_of_call(equation: Equation) -> tuple[Any, list[Any]] | None:
    """Jaxpr and constants of any call whose inputs and outputs are those of its body."""
    if equation.primitive is linear_solve_p:
        body = equation.params["jaxprs"].solve
    elif equation.primitive in _BODIES or equation.primitive.name == "composite":
        body = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
    else:
        return None
    return getattr(body, "jaxpr", body), list(getattr(body, "consts", ()))


def linear_solve_inputs(equation: Equation, values: Sequence[Any]) -> list[Any]:
    """Of the inputs of a `custom_linear_solve`, those of its `solve`."""
    lengths = equation.params["const_lengths"]
    start = lengths.matvec + lengths.vecmat
    return [*values[start : start + lengths.solve], *values[sum(lengths) :]]


_BODIES = _CALLS | {
    primitives.call_p,
    primitives.closed_call_p,
    custom_jvp_call_p,
    custom_vjp_call_p,
}


def scan_body(equation: Equation) -> tuple[Any, list[Any], int, int]:
    """Of a scan: the body's jaxpr and constants, how many of its inputs are constant, and carried.

    The equation keeps these as numbers up to JAX 0.11 and as flat trees after.
    """
    body = equation.params["jaxpr"]
    if "num_consts" in equation.params:
        num_consts, num_carry = equation.params["num_consts"], equation.params["num_carry"]
    else:
        consts, carry, _ = equation.params["ft_in"].unpack()
        num_consts, num_carry = len(list(consts)), len(list(carry))
    return getattr(body, "jaxpr", body), list(getattr(body, "consts", ())), num_consts, num_carry


def has_forward_mode(equations: Sequence[Equation]) -> bool:
    """Whether a program of Jacobian-vector products can be evaluated: not with a `custom_vjp`."""
    return not any(
        equation.primitive is primitives.custom_lin_p
        or any(not has_forward_mode(body.eqns) for body in inner_programs(equation))
        for equation in equations
    )


def inner_programs(equation: Equation) -> list[Any]:
    """The jaxprs that an equation has as parameters: a body, or the branches of a condition."""
    values: list[Any] = []
    for value in equation.params.values():
        values += value if isinstance(value, (tuple, list)) else [value]
    bodies = [getattr(value, "jaxpr", value) for value in values]
    return [body for body in bodies if hasattr(body, "eqns")]


def source_line(equation: Equation) -> str:
    """File and line of the user's code that an equation comes from, or nothing if unknown."""
    traceback: Any = equation.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        path: str = frame.file_name
        if path == __file__:  # what has called `equation_values`
            break
        if not path.startswith("<") and not any(part in path for part in _NOT_THE_USERS):
            return f"{path.rsplit('/', 1)[-1]}:{frame.line_num}"
    return ""


_NOT_THE_USERS = (
    "/site-packages/",
    "/dist-packages/",
    "/lib/python3",
    "/ntk_train/kernel/",
    "/ntk_train/program/",
    "/ntk_train/rules/",
    "/ntk_train/monitor/",
)
