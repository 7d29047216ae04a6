"""A drop-in for the empirical kernels of `neural-tangents` 0.6.5: its names, axes and scaling.

Differences to `ntk_train.ntk`: the axes of the kernel are those of the outputs, zipped
(`[N, M, O, O]` rather than `[N, O, M, O]`); traces are divided by the number of traced outputs, so
that a learning rate tuned on one kernel is scaled by that number for the other; leaves of an output
pytree have their kernels apart, without the terms between them.

It passes the tests of neural-tangents (`experiments/peer_tests.py`), and differs from it on purpose
in this: `params` with the running statistics of a Flax model is refused, as they would count as
parameters; leaves of params that are not floating point are held constant; kernels are at least
float32; and the private arguments `_j_rules`, `_s_rules` and `_fwd` do not exist.

>>> import jax, jax.numpy as jnp, ntk_train
>>> f = lambda params, x: jnp.tanh(x @ params)
>>> params, x = jnp.ones((3, 2)), jnp.ones((4, 3))
>>> ntk_train.empirical_ntk_fn(f, trace_axes=(), vmap_axes=0)(x, None, params).shape
(4, 4, 2, 2)
"""

import enum
import functools
import math
import string
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntk_train._arguments import check_function, described
from ntk_train._types import ApplyFn, Coupling, KernelLayout, KernelProblem, PyTree
from ntk_train.errors import KernelInputError
from ntk_train.kernel.auto import kernel_of
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.problem import (
    check_output,
    on_one_device,
    replicated,
    split_params,
    traced_on_examples,
    warn_of_coupling,
)
from ntk_train.kernel.whole import as_one_program
from ntk_train.program.coupling import EXAMPLES, find_coupling


class NtkImplementation(enum.IntEnum):
    """How the kernel is computed; the values are those of neural-tangents.

    Attributes:
      AUTO: the one that takes the fewest operations.
      JACOBIAN_CONTRACTION: two Jacobians, multiplied parameter by parameter.
      NTK_VECTOR_PRODUCTS: columns of the kernel by vector-Jacobian and Jacobian-vector products.
      STRUCTURED_DERIVATIVES: factored Jacobians, contracted without being formed.
    """

    AUTO = 0
    JACOBIAN_CONTRACTION = 1
    NTK_VECTOR_PRODUCTS = 2
    STRUCTURED_DERIVATIVES = 3


_NAMES = {
    NtkImplementation.AUTO: "auto",
    NtkImplementation.JACOBIAN_CONTRACTION: "jacobian_contraction",
    NtkImplementation.NTK_VECTOR_PRODUCTS: "ntk_vector_products",
    NtkImplementation.STRUCTURED_DERIVATIVES: "structured",
}


def empirical_ntk_fn(
    f: ApplyFn,
    trace_axes: int | tuple[int, ...] = (-1,),
    diagonal_axes: int | tuple[int, ...] = (),
    vmap_axes: Any = None,
    implementation: NtkImplementation | int = NtkImplementation.JACOBIAN_CONTRACTION,
) -> Callable[..., PyTree]:
    """Returns a function of two batches and the parameters that computes the empirical NTK.

    Args:
      f: a function `f(params, x, **kwargs)`; params, x and the outputs are pytrees.
      trace_axes: axes of the outputs to average over: of each pair of such axes the trace is
        taken and divided by its size. Negative axes count from the end.
      diagonal_axes: axes of the outputs of whose pairs only the diagonal is kept.
      vmap_axes: a triple `(x_axes, output_axes, kwargs_axes)`: along these, f treats examples
        independently; `kwargs_axes` is a dict for those keyword arguments that have such an axis.
        Anything else stands for `(vmap_axes, vmap_axes, {})`. None: the batch is taken as a whole.
        A `CoupledExamplesWarning` says where examples interact all the same.
      implementation: see `NtkImplementation`.

    Returns:
      `ntk_fn(x1, x2, params, **kwargs)`, which is compiled anew in each call outside of `jax.jit`;
      `x2=None`, or a tree of None, is the kernel of x1 with itself. Keyword
      arguments go to f; a pair is split, its first for x1 and its second for x2 (unless that is
      None), and a key `rng` is folded for x2 unless both inputs are equal. The kernel has the
      structure of the outputs and, for each, the axes of `f(params, x1)` zipped with those of
      `f(params, x2)`: traced ones are absent, diagonal ones stand once.

    Raises:
      KernelInputError: an axis out of range, or both traced and diagonal, or sizes that differ; no
        such implementation, or f is no function.

    References:
      R. Novak et al., *Neural Tangents: Fast and Easy Infinite Neural Networks in Python*, ICLR
      2020; R. Novak et al., *Fast Finite Width Neural Tangent Kernel*, ICML 2022.
    """
    check_function("f", f, "a function f(params, x, **kwargs) -> outputs")
    if implementation not in tuple(NtkImplementation):
        expected = ", ".join(f"{each.value} ({each.name})" for each in NtkImplementation)
        msg = f"implementation={described(implementation)}; expected one of {expected}."
        raise KernelInputError(msg)
    name = _NAMES[NtkImplementation(implementation)]
    options = KernelOptions(implementation=name, precision=None)
    axes = _Axes(trace_axes, diagonal_axes, vmap_axes)

    def ntk_fn(x1: PyTree, x2: PyTree | None, params: PyTree, **kwargs: Any) -> PyTree:
        x2 = None if _absent(x2) else x2
        x1, x2 = on_one_device("x1", x1), on_one_device("x2", x2)

        def kernels(params: PyTree, x1: PyTree, x2: PyTree | None) -> PyTree:
            return _kernels(f, axes, options, params, x1, x2, kwargs)

        return as_one_program(kernels, params, x1, x2)

    return ntk_fn


class _Axes(NamedTuple):
    """The axes of `empirical_ntk_fn`: of outputs, and along which examples are independent."""

    trace: int | tuple[int, ...]
    diagonal: int | tuple[int, ...]
    vmap: Any


def _kernels(
    f: ApplyFn,
    axes: _Axes,
    options: KernelOptions,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None,
    kwargs: Mapping[str, Any],
) -> PyTree:
    """The kernel of each leaf of the outputs."""
    theta, paths, merge = split_params(replicated(params), None, has_filter=False)

    def of_theta(theta: list[jax.Array], x: PyTree, kwargs: Mapping[str, Any]) -> PyTree:
        return f(merge(theta), x, **kwargs)

    kwargs1, kwargs2 = _split_kwargs(kwargs, x1, x2)
    sides = [_Side(x1, kwargs1, axes.vmap)]
    if x2 is not None:
        sides.append(_Side(x2, kwargs2, axes.vmap))
    # f sees the inputs themselves: it may ask for their values.
    outputs = [
        jax.eval_shape(functools.partial(of_theta, x=side.x, kwargs=side.kwargs), theta)
        for side in sides
    ]
    pairs = zip(sides, outputs, strict=True)
    found = [side.coupling(of_theta, theta, own) for side, own in pairs]
    warn_of_coupling(next((coupling for coupling in found if coupling is not None), None))
    leaves, treedef = jax.tree.flatten(outputs[0])
    for leaf in leaves:
        check_output(leaf)
    shapes = zip(leaves, jax.tree.leaves(outputs[-1]), strict=True)

    def kernel(i: int, shape1: tuple[int, ...], shape2: tuple[int, ...]) -> jax.Array:
        axis = sides[0].output_axes(outputs[0])[i]
        layout, size = _layout(shape1, shape2, axes.trace, axes.diagonal, axis)

        def of_leaf(side: _Side, theta: list[jax.Array], mapped: list[jax.Array]) -> jax.Array:
            # It may be a Python number, where it depends on nothing.
            output = jnp.asarray(jax.tree.leaves(of_theta(theta, *side.restore(mapped)))[i])
            return output if axis is None else _without_axis(output, axis)

        first, second = (functools.partial(of_leaf, side) for side in (sides[0], sides[-1]))
        problem = KernelProblem(
            f1=first,
            f2=second if x2 is not None else first,
            theta=theta,
            paths=paths,
            x1=sides[0].mapped,
            x2=None if x2 is None else sides[1].mapped,
            layout=layout,
            batched=axis is not None,
            precision=options.precision,
        )
        return kernel_of(problem, options) / size

    kernels = [kernel(i, own1.shape, own2.shape) for i, (own1, own2) in enumerate(shapes)]
    return jax.tree.unflatten(treedef, kernels)


def empirical_ntk_vp_fn(
    f: ApplyFn, x1: PyTree, x2: PyTree | None, params: PyTree, **kwargs: Any
) -> Callable[[PyTree], PyTree]:
    """Returns the linear map of vectors by the kernel of x1 with x2, which is never formed.

    Args:
      f: a function `f(params, x, **kwargs)`.
      x1: N1 inputs.
      x2: N2 inputs, or None, or a tree of None, for x1.
      params: the parameters.
      **kwargs: passed to f, pairs and the key `rng` as in `empirical_ntk_fn`.

    Returns:
      A function from cotangents with the structure of `f(params, x2)` to the product
      `J1 J2^T v`, with the structure of `f(params, x1)`. It costs about one backward pass over
      x2 and one forward pass over x1.

    References:
      R. Novak et al., *Fast Finite Width Neural Tangent Kernel*, ICML 2022, appendix on
      applications of NTK-vector products.
    """
    x2 = None if _absent(x2) else x2
    kwargs1, kwargs2 = _split_kwargs(kwargs, x1, x2)
    theta, _, merge = split_params(params, None, has_filter=False)
    _, pullback = jax.vjp(lambda p: f(merge(p), x1 if x2 is None else x2, **kwargs2), theta)

    def ntk_vp_fn(cotangents: PyTree) -> PyTree:
        """Multiplies cotangents of `f(params, x2)` by the kernel."""
        tangents = pullback(cotangents)
        return jax.jvp(lambda p: f(merge(p), x1, **kwargs1), (theta,), tangents)[1]

    return ntk_vp_fn


class _Side:
    """One batch of inputs and keyword arguments, with the axes along which f treats examples apart.

    Attributes:
      x: the inputs.
      kwargs: the keyword arguments.
      mapped: the leaves that have an axis of examples, moved to axis 0; the whole batch is kept
        where it is when no leaf has one.
    """

    def __init__(self, x: PyTree, kwargs: dict[str, Any], vmap_axes: Any) -> None:
        is_triple = isinstance(vmap_axes, tuple) and len(vmap_axes) == 3
        x_axes, self._output_axes, kwargs_axes = (
            vmap_axes if is_triple else (vmap_axes, vmap_axes, {})
        )
        if kwargs_axes is None or isinstance(kwargs_axes, int):
            kwargs_axes = dict.fromkeys(kwargs, kwargs_axes)
        kwargs_axes = {key: (kwargs_axes or {}).get(key) for key in kwargs}
        self.x, self.kwargs = x, kwargs
        self._leaves, self._treedef = jax.tree.flatten((x, kwargs))
        self._axes = _broadcast_axes("vmap_axes", (x_axes, kwargs_axes), (x, kwargs))
        self.mapped = [
            jnp.moveaxis(leaf, axis, 0)
            for leaf, axis in zip(self._leaves, self._axes, strict=True)
            if axis is not None
        ]

    def restore(
        self, mapped: list[jax.Array], *, batch: bool = False
    ) -> tuple[PyTree, dict[str, Any]]:
        """Inputs and keyword arguments with one example, its axis of size 1 back in place.

        With `batch` each leaf has several examples on axis 0.
        """
        examples = iter(mapped)
        place = (lambda leaf, axis: jnp.moveaxis(leaf, 0, axis)) if batch else jnp.expand_dims
        leaves = [
            leaf if axis is None else place(next(examples), axis)
            for leaf, axis in zip(self._leaves, self._axes, strict=True)
        ]
        return jax.tree.unflatten(self._treedef, leaves)

    def coupling(
        self, f: Callable[..., PyTree], theta: list[jax.Array], outputs: PyTree
    ) -> Coupling | None:
        """Where the examples of f(theta, x, kwargs) interact, if that is known."""
        n = min([EXAMPLES, *(len(leaf) for leaf in self.mapped)])
        if not self.mapped or n < 2:
            return None

        def on_batch(theta: list[jax.Array], mapped: list[jax.Array]) -> PyTree:
            return f(theta, *self.restore(mapped, batch=True))

        axes = self.output_axes(outputs)
        closed = traced_on_examples(on_batch, theta, self.mapped, n)
        return closed and find_coupling(closed, [0] * len(self.mapped), axes)

    def output_axes(self, outputs: PyTree) -> list[int | None]:
        """The axis of examples of each leaf of the outputs, None if the batch is one example."""
        axes = _broadcast_axes("vmap_axes of the outputs", self._output_axes, outputs)
        if self.mapped and None in axes:
            msg = "vmap_axes names axes of examples for inputs, but not for each of the outputs."
            raise KernelInputError(msg)
        return axes if self.mapped else [None] * len(axes)


def _without_axis(output: jax.Array, axis: int) -> jax.Array:
    """The outputs of one example without their axis of examples."""
    if output.shape[axis] != 1:
        msg = (
            f"f returned {output.shape} for one example, whose axis {axis} is that of examples by "
            "vmap_axes: it must have size 1. Where f takes the batch as a whole, pass None."
        )
        raise KernelInputError(msg)
    return jnp.squeeze(output, axis)


def _broadcast_axes(what: str, axes: Any, tree: PyTree) -> list[int | None]:
    """An axis, counted from the front, or None for each leaf of a tree, from a prefix of it."""
    try:
        full = jax.tree.broadcast(axes, tree, is_leaf=_is_none)
    except ValueError as error:
        msg = f"{what}={axes!r} does not fit the structure {jax.tree.structure(tree)}."
        raise KernelInputError(msg) from error
    # None is an axis in one tree and a subtree without leaves in the other, in the same places.
    pairs = zip(*(jax.tree.leaves(each, is_leaf=_is_none) for each in (full, tree)), strict=True)
    return [
        None if axis is None else _canonical((axis,), jnp.ndim(leaf), what)[0]
        for axis, leaf in pairs
        if leaf is not None
    ]


def _is_none(node: Any) -> bool:
    return node is None


def _canonical(axes: int | tuple[int, ...], ndim: int, what: str) -> tuple[int, ...]:
    """Axes counted from the front, in order, each once."""
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    outside = [axis for axis in axes if not -ndim <= axis < ndim]
    if outside:
        msg = f"{what}={axes} names axes {outside} of an array of {ndim} axes."
        raise KernelInputError(msg)
    return tuple(sorted({axis % ndim for axis in axes}))


def _layout(
    shape1: tuple[int, ...],
    shape2: tuple[int, ...],
    trace_axes: int | tuple[int, ...],
    diagonal_axes: int | tuple[int, ...],
    example_axis: int | None,
) -> tuple[KernelLayout, int]:
    """Labels of both outputs and of the kernel, and the number of traced outputs.

    With an axis of examples its label comes first on each side, as implementations want it; the
    kernel's axes stay in the order of the outputs' own.
    """
    ndim = len(shape1)
    traced = _canonical(trace_axes, ndim, "trace_axes")
    diagonal = _canonical(diagonal_axes, ndim, "diagonal_axes")
    if set(traced) & set(diagonal):
        msg = f"trace_axes={trace_axes} and diagonal_axes={diagonal_axes} share an axis."
        raise KernelInputError(msg)
    for axis in (*traced, *diagonal):
        if shape1[axis] != shape2[axis]:
            msg = (
                f"axis {axis} is traced or diagonal, but has {shape1[axis]} entries for x1 and "
                f"{shape2[axis]} for x2."
            )
            raise KernelInputError(msg)
    letters = iter(string.ascii_uppercase)  # small ones label what is summed inside
    left: list[str] = []
    right: list[str] = []
    out: list[str] = []
    for axis in range(ndim):
        one = next(letters)
        other = one if axis in (*traced, *diagonal) else next(letters)
        left.append(one)
        right.append(other)
        if axis not in traced:
            out.extend(dict.fromkeys((one, other)))
    order = list(range(ndim))
    if example_axis is not None:
        order.insert(0, order.pop(example_axis))
    layout = KernelLayout(
        "".join(left[axis] for axis in order), "".join(right[axis] for axis in order), "".join(out)
    )
    return layout, math.prod(shape1[axis] for axis in traced)


def _absent(x: PyTree) -> bool:
    """Whether x2 was left out; a tree of None counts as such."""
    return not jax.tree.leaves(x)


def _split_kwargs(
    kwargs: Mapping[str, Any], x1: PyTree, x2: PyTree | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keyword arguments of both sides: pairs are split, the key `rng` is folded for x2."""
    pairs = {key for key, value in kwargs.items() if isinstance(value, tuple) and len(value) == 2}
    kwargs1 = {key: value[0] if key in pairs else value for key, value in kwargs.items()}
    kwargs2 = {key: value[1] if key in pairs else value for key, value in kwargs.items()}
    if x2 is None:
        return kwargs1, kwargs1
    key1, key2 = kwargs1.get("rng"), kwargs2.get("rng")
    if key1 is not None and key2 is not None:  # equal inputs get equal keys, and others do not
        other = jnp.where(jnp.all(key1 == key2), jax.random.fold_in(key2, 1), key2)
        kwargs2["rng"] = jnp.where(_equal(x1, x2), key1, other)
    return kwargs1, kwargs2


def _equal(x1: PyTree, x2: PyTree) -> jax.Array | bool:
    """Whether two pytrees of arrays have leaves of the same shapes and numbers."""
    leaves1, leaves2 = jax.tree.leaves(x1), jax.tree.leaves(x2)
    if [jnp.shape(leaf) for leaf in leaves1] != [jnp.shape(leaf) for leaf in leaves2]:
        return False
    return jnp.all(jnp.stack([jnp.all(a == b) for a, b in zip(leaves1, leaves2, strict=True)]))
