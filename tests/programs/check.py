"""The kernels of a program against those of its explicit Jacobian, in float64.

A program is one of: "agrees"; "differs" or "raises", which are failures; or "rejected", because its
kernel says nothing (it is not finite, or all of it is tiny) or depends on rounding.
"""

import contextlib
import dataclasses
import functools
import random
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ntk_train import UnfactoredWarning, empirical_ntk_fn, ntk
from tests import oracle
from tests.programs.build import M, N

TOLERANCE = 1e-10
QUICK = oracle.QUICK | {
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
}


@dataclasses.dataclass(frozen=True)
class Call:
    """One kernel to ask for.

    Attributes:
      outputs: a mode, or "chosen".
      other: whether x2 is given.
      implementation: its name, or "drop_in" with axes of the outputs.
      options: other keyword arguments.
    """

    outputs: str
    other: bool
    implementation: str = "structured"
    options: tuple[tuple[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of one program.

    Attributes:
      verdict: "agrees", "differs", "raises" or "rejected".
      error: the largest, in relation to the largest entry of the full kernel.
      calls: those that failed, or all.
      why: the exception of "raises", the reason of "rejected".
    """

    verdict: str
    error: float = 0.0
    calls: tuple[Call, ...] = ()
    why: str = ""

    @property
    def failed(self) -> bool:
        return self.verdict in ("differs", "raises")


MODES = ("full", "trace", "sum", "diagonal", "chosen")


def all_calls(seed: int) -> list[Call]:
    """Each mode with x2 and without, and more options, by the seed."""
    rng = random.Random(seed)
    calls = [Call(mode, other) for mode in MODES for other in (False, True)]
    calls += [Call(mode, rng.random() < 0.5, "auto") for mode in MODES]
    for budget in (1e4, 1e5):
        calls.append(
            Call(rng.choice(MODES), rng.random() < 0.5, options=(("memory_budget", budget),))
        )
    calls.append(Call(rng.choice(MODES), rng.random() < 0.5, options=(("per_layer", True),)))
    calls += [_drop_in(rng), _drop_in(rng)]
    return calls


def one_call(seed: int) -> list[Call]:
    """The full kernel or one of the other calls: most of the time goes into compiling them."""
    rng = random.Random(seed)
    full = Call("full", rng.random() < 0.5)
    return [full if rng.random() < 0.5 else rng.choice(all_calls(seed)[2:])]


def drop_in_calls(seed: int) -> list[Call]:
    """Kernels of the drop-in for neural-tangents, with axes drawn by the seed."""
    rng = random.Random(seed)
    return [_drop_in(rng) for _ in range(3)]


def _drop_in(rng: random.Random) -> Call:
    """Each axis of an output full, traced or diagonal; read modulo the number of axes."""
    roles = tuple(rng.choice(["full", "full", "trace", "diagonal"]) for _ in range(6))
    vmap = rng.choice([0, None])
    options = (("roles", roles), ("vmap_axes", vmap), ("code", rng.choice([0, 3])))
    return Call("drop_in", rng.random() < 0.5, "drop_in", options)


def check(case: tuple, calls: Sequence[Call]) -> Result:
    """Compares some kernels of (f, params, x1, x2), all of them in one compiled function."""
    f, params, x1, x2 = case
    both = jax.tree.map(lambda a, b: np.concatenate([a, b]), x1, x2)
    jacobian = oracle.jacobian(f, params, both, forward=False)
    full = oracle.contract(jacobian, jacobian)
    scale = np.abs(full).max() if full.size else 0.0
    if not np.isfinite(scale):
        return Result("rejected", why="not finite")
    if 0 < scale < 1e-12 or scale > 1e12:
        return Result("rejected", why="tiny or huge")
    shapes = [leaf.shape[1:] for leaf in jax.tree.leaves(jax.eval_shape(f, params, x1))]
    expected = _Expected(jacobian, full, shapes)
    if not full.shape[1]:  # there is no logit to choose
        calls = [call for call in calls if call.outputs != "chosen"]
    arguments = f, params, x1, x2
    why: dict[Call, str] = {}
    try:
        got = dict(zip(calls, _computed(arguments, calls, expected)))
    except Exception:  # whatever a kernel raises is what is looked for
        why = _reasons(arguments, calls, expected)
        sound = [call for call in calls if call not in why]
        got = dict(zip(sound, _computed(arguments, sound, expected)))
    errors = {call: _error(kernel, expected.of(call), scale) for call, kernel in got.items()}
    wrong = tuple(call for call, error in errors.items() if error > TOLERANCE)
    worst = max(errors.values(), default=0.0)
    if wrong and not _is_stable(f, params, both, jacobian):
        return Result("rejected", why="depends on rounding")
    if wrong:
        return Result("differs", worst, wrong)
    if why:
        return Result("raises", np.inf, tuple(why), next(iter(why.values())))
    return Result("agrees", worst, tuple(calls))


def _reasons(arguments: tuple, calls, expected: "_Expected") -> dict[Call, str]:
    """Which of the calls raise, and what."""
    f, *others = arguments
    why = {}
    for call in calls:
        try:
            one = functools.partial(_one, f, call=call, expected=expected)
            jax.jit(one).lower(*others)
        except Exception as error:
            message = str(error).strip().split("\n")[0][:150]
            why[call] = f"{type(error).__name__}: {message}"
    return why


def _computed(arguments: tuple, calls, expected: "_Expected") -> list:
    """The kernels of all calls by one compiled function; per layer, their sum."""

    f, *others = arguments

    def kernels(params, x1, x2):
        return [_one(f, params, x1, x2, call, expected) for call in calls]

    return jax.jit(kernels, compiler_options=QUICK)(*others)


def _one(f, params, x1, x2, call: Call, expected: "_Expected"):
    """The kernel of one call."""
    options = dict(call.options)
    if call.implementation == "drop_in":
        return _drop_in_kernels(f, params, x1, x2, call, expected.shapes)
    outputs: Any = call.outputs
    if outputs == "chosen":
        chosen1, chosen2 = expected.choices()
        outputs = (chosen1, chosen2) if call.other else chosen1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", UnfactoredWarning)
        got = ntk(
            f,
            params,
            x1,
            x2 if call.other else None,
            outputs=outputs,
            implementation=call.implementation,
            **options,
        )
    return sum(got.values()) if options.get("per_layer") else got


def _drop_in_kernels(f, params, x1, x2, call: Call, shapes) -> list:
    """The kernels of all leaves with the same axes, which exist in the one with fewest."""
    options = dict(call.options)
    traced, diagonal = _axes(options["roles"], shapes, call.other)
    kernel = empirical_ntk_fn(f, traced, diagonal, options["vmap_axes"], options["code"])
    return jax.tree.leaves(kernel(x1, x2 if call.other else None, params))


def _axes(roles, shapes, other: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Traced and diagonal axes; that of examples is neither where their numbers differ."""
    ndim = 1 + min(map(len, shapes))
    axes = range(1 if other else 0, ndim)
    traced = tuple(axis for axis in axes if roles[axis] == "trace")
    return traced, tuple(axis for axis in axes if roles[axis] == "diagonal")


class _Expected:
    """Kernels of the explicit Jacobian of x1 and x2 together."""

    def __init__(self, jacobian: np.ndarray, full: np.ndarray, shapes: list) -> None:
        self.jacobian, self.full, self.shapes = jacobian, full, shapes

    def choices(self):
        """A logit for each example, in the narrowest types."""
        o = self.full.shape[1]
        if not o:
            return np.zeros(N, np.uint8), np.zeros(M, np.int8)
        first = (np.arange(N) * 3 + 1) % o
        second = (np.arange(M) * 2 + o - 1) % o
        narrow = [
            np.uint8 if first.max() < 256 else np.uint16,
            np.int8 if second.max() < 128 else np.uint16,
        ]
        return first.astype(narrow[0]), second.astype(narrow[1])

    def of(self, call: Call):
        full = self.full[:N, :, N:] if call.other else self.full[:N, :, :N]
        if call.outputs == "full":
            return full
        if call.outputs == "drop_in":
            return self._drop_in(call)
        if call.outputs == "chosen":
            first, second = self.choices()
            second = second if call.other else first
            n, m = np.ix_(range(full.shape[0]), range(full.shape[2]))
            return full[n, first[:, None], m, second[None, :]]
        equation = {"trace": "nomo->nm", "sum": "nomp->nm", "diagonal": "nomo->nmo"}
        return np.einsum(equation[call.outputs], full)

    def _drop_in(self, call: Call) -> list:
        """By leaf, with the labels that the drop-in's documentation gives them."""
        traced, diagonal = _axes(dict(call.options)["roles"], self.shapes, call.other)
        left, right = (slice(N), slice(N, None)) if call.other else (slice(N), slice(N))
        kernels, start = [], 0
        for shape in self.shapes:
            size = int(np.prod(shape))
            own = self.jacobian[:, start : start + size]
            own = own.reshape(own.shape[0], *shape, own.shape[2])
            start += size
            j1, j2 = own[left], own[right]
            labels1 = "abcdefgh"[: j1.ndim - 1]
            labels2 = "".join(
                v if i in (*traced, *diagonal) else v.upper() for i, v in enumerate(labels1)
            )
            out = "".join(
                "" if i in traced else v if i in diagonal else v + v.upper()
                for i, v in enumerate(labels1)
            )
            kernel = np.einsum(f"{labels1}z,{labels2}z->{out}", j1, j2)
            kernels.append(kernel / np.prod([j1.shape[i] for i in traced]))
        return kernels


def _error(got, want, scale: float) -> float:
    """The largest in relation to the scale or to what is wanted, a sum of many outputs perhaps.

    Infinite where a shape differs or a number is none.
    """
    if isinstance(want, list):
        if len(got) != len(want):
            return np.inf
        return max(_error(g, w, scale) for g, w in zip(got, want))
    got = np.asarray(got)
    if got.shape != want.shape:
        return np.inf
    if not got.size:
        return 0.0
    # The drop-in's mean over an axis without entries is no number.
    error = np.where(np.isnan(want) & np.isnan(got), 0.0, np.abs(got - want)).max()
    if not np.isfinite(error):
        return np.inf
    scale = max(scale, np.nanmax(np.abs(want), initial=0.0))
    return error / (scale or 1.0)  # a kernel of zeros is compared with the parameters' own scale


def _is_stable(f, params, x, jacobian: np.ndarray) -> bool:
    """Whether the Jacobian stays as it is, one example at a time, forwards, or a little beside.

    A step at the very number that is there (`floor` of 2, `angle` of a negative number) goes up or
    down with rounding. And places out of range that an index has promised not to have are read
    forwards, and dropped backwards: such an f has no one derivative.
    """

    def row(i: int) -> np.ndarray:
        return oracle.jacobian(f, params, jax.tree.map(lambda leaf: leaf[i : i + 1], x), False)

    again = [np.concatenate([row(i) for i in range(jacobian.shape[0])])]
    with contextlib.suppress(TypeError):  # of a `custom_vjp`
        again.append(oracle.jacobian(f, params, x))
    for seed in range(4):
        again.append(oracle.jacobian(f, *_rounded_otherwise((params, x), seed), False))
    change = max(np.abs(other - jacobian).max(initial=0) for other in again)
    return change <= 1e-11 * np.abs(jacobian).max(initial=0)


def _rounded_otherwise(tree, seed: int):
    """Floating-point numbers changed in their last digits."""
    rng = np.random.default_rng(seed)

    def change(leaf):
        if not np.issubdtype(np.asarray(leaf).dtype, np.floating):
            return leaf
        return leaf * (1 + 1e-15 * rng.choice([-1, 1], np.shape(leaf)))

    return jax.tree.map(change, tree)
