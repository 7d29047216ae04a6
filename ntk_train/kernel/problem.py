"""From what a user passes to one `KernelProblem`, the form that every implementation takes.

Outputs are flattened to O numbers per example, leaf by leaf in the order of `jax.tree.leaves`, so
that the kernel of a pytree of outputs keeps the terms between its leaves. The kernels of the sum of
the outputs and of chosen logits are the full kernels of functions with one output, and are posed as
such: an implementation knows full, trace and diagonal alone.
"""

import functools
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._arguments import check_function, described
from ntk_train._integers import places
from ntk_train._types import ApplyFn, Coupling, KernelLayout, KernelProblem, ParamFilter, PyTree
from ntk_train.errors import CoupledExamplesWarning, DtypeError, KernelInputError
from ntk_train.kernel.failed_call import bound, check_not_swapped, explained
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.readout import is_readout, mode_of, read_out
from ntk_train.program.coupling import EXAMPLES, find_coupling

_LAYOUTS = {
    "full": KernelLayout("no", "mp", "nomp"),
    "trace": KernelLayout("no", "mo", "nm"),
    "diagonal": KernelLayout("no", "mo", "nmo"),
    "sum": KernelLayout("n", "m", "nm"),
    "chosen": KernelLayout("n", "m", "nm"),
}


def make_problem(
    f: ApplyFn,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None,
    options: KernelOptions,
    *,
    model_state: PyTree = None,
    name: str = "x1",
) -> KernelProblem:
    """Checks the arguments of `ntk_train.ntk`, which documents them, and poses the kernel.

    `name` is that of x1 in the caller's arguments.
    """
    check_f(f)
    batched = options.batched
    theta, paths, merge = split_params(params, options.param_filter)
    x1, x2 = on_one_device(name, x1), on_one_device("x2", x2)
    inputs = {name: x1} if x2 is None else {name: x1, "x2": x2}
    for each, x in inputs.items():
        _check_inputs(each, x, batched)
        if batched and len({jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}) != 1:
            check_not_swapped(bound(f, model_state), params, x, each)
    mode, choice1, choice2 = mode_and_choices(options.outputs, x2)
    f, read = explained(f, replicated(model_state), inputs), read_out(options.outputs)

    def flat_f(theta: list[jax.Array], x: PyTree) -> jax.Array:  # [N, O]
        return _flatten_outputs(read(f(merge(theta), x)))

    sides = [_check_side(name, flat_f, theta, x, batched) for name, x in inputs.items()]
    shapes = [(n, o) for n, o, _ in sides]
    if len(shapes) == 2 and mode in ("trace", "diagonal") and shapes[0][1] != shapes[1][1]:
        msg = (
            f"outputs={mode!r} needs as many outputs per example of x1 as of x2, "
            f"got {shapes[0][1]} and {shapes[1][1]}; outputs='full' compares any two."
        )
        raise KernelInputError(msg)

    if mode == "chosen":
        x1 = (x1, _check_choice(name, choice1, shapes[0]))
        x2 = None if x2 is None else (x2, _check_choice("x2", choice2, shapes[1]))

    def side(theta: list[jax.Array], x: PyTree) -> jax.Array:  # [N, O] or [N]
        if mode == "chosen":
            x, choice = x
            y = flat_f(theta, x)
            # A traced choice cannot be checked before: out of range, its row becomes NaN.
            choice, in_range = places(choice, y.shape[1])
            chosen = jnp.take_along_axis(y, choice[:, None], axis=1)[:, 0]
            return chosen * jnp.where(in_range, 1, jnp.nan).astype(y.dtype)
        y = flat_f(theta, x)
        return y.sum(axis=1) if mode == "sum" else y

    def one_example(theta: list[jax.Array], x: PyTree) -> jax.Array:  # [O] or []
        return side(theta, jax.tree.map(lambda leaf: leaf[None], x))[0]

    one_side = one_example if batched else side
    return KernelProblem(
        f1=one_side,
        f2=one_side,
        theta=theta,
        paths=paths,
        x1=x1,
        x2=x2,
        layout=_LAYOUTS[mode],
        batched=batched,
        precision=options.precision,
        memory_budget=options.memory_budget,
        coupling=next((coupling for *_, coupling in sides if coupling is not None), None),
    )


def check_f(f: Any) -> None:
    """Refuses what is no function.

    Raises:
      KernelInputError: it is none.
    """
    check_function("f", f, "a function f(params, x) -> outputs")


def _check_inputs(name: str, x: PyTree, batched: bool) -> None:
    """Refuses inputs that are no arrays."""
    if x is None:
        msg = f"{name} is None; expected inputs, with the examples on axis 0."
        raise KernelInputError(msg)
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        dtype = getattr(leaf, "dtype", None)
        is_array = dtype is not None and getattr(dtype, "kind", "V") not in "OSUMm"
        # A function of the batch as a whole may take a Python number as it is.
        if not is_array and (batched or not isinstance(leaf, (bool, int, float, complex))):
            where = name + jax.tree_util.keystr(path)
            msg = f"{where} is {described(leaf)}; expected arrays, with the examples on axis 0."
            raise KernelInputError(msg)


def split_params(
    params: PyTree, param_filter: ParamFilter | None, *, has_filter: bool = True
) -> tuple[list[jax.Array], list[str], Callable[[list[jax.Array]], PyTree]]:
    """Separates the leaves to differentiate from those to hold constant.

    Constant are the leaves that are no floating-point arrays (counters, random keys, functions in
    an Equinox module) and those whose path the filter refuses. `has_filter` says whether the
    caller's own arguments have a filter that an error can send the user to.

    Returns:
      The differentiated leaves, their paths, and a function from such leaves to the whole params.

    Raises:
      DtypeError: a leaf is complex.
      KernelInputError: nothing is left to differentiate, or params looks like the `variables` of
        a Flax model, running statistics included.
    """
    if param_filter is None:
        _check_no_other_collections(params, has_filter=has_filter)
    params = replicated(params)
    leaves, treedef = jax.tree.flatten(params)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path in _paths_of_leaves(params)
    ]
    positions = []
    for i, (name, leaf) in enumerate(zip(names, list(leaves), strict=True)):
        if param_filter is not None and not param_filter(name):
            continue
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, complex)):
            continue
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            msg = (
                f"params[{name!r}] is {dtype}: the tangent kernel is defined here for real "
                "parameters. Store real and imaginary parts as two leaves and combine them in f."
            )
            raise DtypeError(msg)
        if jnp.issubdtype(dtype, jnp.floating):
            positions.append(i)
            leaves[i] = jnp.asarray(leaf)
    if not positions:
        raise KernelInputError(_nothing_to_differentiate(leaves, names, param_filter))

    def merge(theta: list[jax.Array]) -> PyTree:
        merged = list(leaves)
        for i, leaf in zip(positions, theta, strict=True):
            merged[i] = leaf
        return jax.tree.unflatten(treedef, merged)

    return [leaves[i] for i in positions], [names[i] for i in positions], merge


def _nothing_to_differentiate(
    leaves: Sequence[Any], names: Sequence[str], param_filter: ParamFilter | None
) -> str:
    """Why there is nothing, and the remedy."""
    found = sorted({str(getattr(leaf, "dtype", type(leaf).__name__)) for leaf in leaves})
    cause = "param_filter refused them all" if param_filter else "none is floating point"
    remedy = (
        f"It is asked about paths such as {names[0]!r}."
        if param_filter and names
        else "Pass the network's parameters: of a Flax model variables['params'], of a "
        "TrainState state.params."
    )
    return (
        f"params has no leaf to differentiate: of its {len(leaves)} leaves "
        f"({', '.join(found)}) {cause}. {remedy}"
    )


def _check_no_other_collections(params: PyTree, *, has_filter: bool) -> None:
    """Refuses the `variables` of a Flax model, whose statistics would be differentiated too."""
    if isinstance(params, Mapping) and "params" in params and len(params) > 1:
        others = sorted(str(key) for key in params if key != "params")
        msg = (
            f"params holds the collections 'params' and {others}: these look like the variables of "
            "a Flax model, and the kernel would differentiate running statistics too. Pass "
            "variables['params'] and "
        )
        msg += (
            "the rest as model_state=; or say what to differentiate with "
            "param_filter=lambda path: path.startswith('params/')."
            if has_filter
            else "close f over the rest."
        )
        raise KernelInputError(msg)


def _paths_of_leaves(tree: PyTree) -> Iterator[tuple[Any, ...]]:
    """Keys that lead to each leaf, in order.

    What a box of Flax holds (`nnx.Param`, `nn.Partitioned`) has the path of the box: JAX adds
    "value", so that "Dense_0/kernel/value" would make a layer of each parameter.
    """
    for path, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_box)[0]:
        if not _is_box(node):
            yield path
            continue
        for held in jax.tree.leaves(node, is_leaf=functools.partial(operator.is_not, node)):
            for inner in _paths_of_leaves(held):
                yield (*path, *inner)


def _is_box(node: Any) -> bool:
    """Whether a node is a box: by its methods, as this does not import Flax."""
    return hasattr(type(node), "unbox") or hasattr(type(node), "get_value")


def _flatten_outputs(y: PyTree) -> jax.Array:
    """Joins the leaves [N, ...] of an output to one [N, O]."""
    leaves = jax.tree.leaves(y)
    if not leaves:
        msg = "f returned no array; it must return outputs with the examples on axis 0."
        raise KernelInputError(msg)
    for leaf in leaves:
        check_output(leaf)
        if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != jnp.shape(leaves[0])[0]:
            msg = (
                f"f returned leaves of shapes {[jnp.shape(leaf) for leaf in leaves]}: each needs "
                "the examples on axis 0. Leave out what is no output, as an updated state; a "
                "function with one number per batch can return it [None]."
            )
            raise KernelInputError(msg)
    flat = [jnp.reshape(y, (y.shape[0], math.prod(y.shape[1:]))) for y in leaves]
    # Of float8 there is no promotion to wider ones, and no derivative worth the name.
    flat = [y if jnp.finfo(y.dtype).bits >= 16 else y.astype(jnp.float32) for y in flat]
    return jnp.concatenate(flat, axis=1)


def check_output(leaf: Any) -> None:
    """Refuses an output, or the shape of one, that is not real floating point.

    Raises:
      DtypeError: it is of another dtype.
      KernelInputError: it is no array.
    """
    if not hasattr(leaf, "dtype") and not isinstance(leaf, (bool, int, float, complex)):
        msg = f"f returned {described(leaf)}; expected arrays, with the examples on axis 0."
        raise KernelInputError(msg)
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
        msg = (
            f"f returned {dtype}{list(jnp.shape(leaf))}: outputs must be real floating point. "
            "Return logits rather than classes, and the real and imaginary parts of complex "
            "numbers as two outputs."
        )
        raise DtypeError(msg)


def on_one_device(name: str, x: PyTree) -> PyTree:
    """Inputs that are sharded over devices, gathered: a copy of all on each.

    XLA returns wrong per-example gradients of convolutions, without an error, where the examples
    of `jit(vmap(vjp(...)))` are sharded over a mesh in Auto mode (JAX 0.9 to 0.12, any backend).

    Raises:
      KernelInputError: parts of an input are on devices of other processes.
    """

    def gather(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
            return replicated(leaf)
        if len(leaf.sharding.device_set) == 1 or leaf.sharding.is_fully_replicated:
            return leaf
        if not leaf.is_fully_addressable:
            msg = (
                f"{name} is sharded over devices of several processes. Gather it first, with "
                "jax.experimental.multihost_utils.process_allgather."
            )
            raise KernelInputError(msg)
        return jnp.asarray(np.asarray(leaf))

    return jax.tree.map(gather, x)


def replicated(tree: PyTree) -> PyTree:
    """Arrays that are sharded by their type, over a mesh in Explicit mode, whole on each device.

    There each operation asks how its result is sharded where that is not plain, and the products of
    a kernel have no answer that fits all meshes.
    """

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        sharding = jax.typeof(leaf).sharding
        if all(axis is None for axis in sharding.spec):
            return leaf
        return jax.sharding.reshard(leaf, jax.NamedSharding(sharding.mesh, jax.P()))

    return jax.tree.map(whole, tree)


def _check_side(
    name: str, flat_f: ApplyFn, theta: list[jax.Array], x: PyTree, batched: bool
) -> tuple[int, int, Coupling | None]:
    """Returns N and O of one side, after a look at the shapes of what goes in and comes out.

    With `batched` it says too where examples interact all the same, if that is known.
    """
    if not batched:
        n, o = jax.eval_shape(flat_f, theta, x).shape
        return n, o, None
    leaves = jax.tree.leaves(x)
    sizes = {jnp.shape(leaf)[:1] for leaf in leaves}
    if len(sizes) != 1 or () in sizes:
        msg = (
            f"{name} has leaves of shapes {[jnp.shape(leaf) for leaf in leaves]}: with "
            "batched=True each must have the examples on axis 0, as many in each. Close f over "
            "what is no example, or say batched=False if f takes the batch as a whole."
        )
        raise KernelInputError(msg)
    ((n,),) = sizes
    coupling = None
    if n > 1:
        o, coupling = _check_examples(flat_f, theta, x, min(n, EXAMPLES))
        if o is not None and coupling is None:
            return n, o, None
    rows, o = jax.eval_shape(flat_f, theta, _some_examples(x, 1)).shape
    if rows != 1:
        msg = (
            f"f returned {rows} rows for one example of {name}: with batched=True its outputs "
            "must have the examples on axis 0. Reshape them, or say batched=False."
        )
        raise KernelInputError(msg)
    return n, o, coupling


def _check_examples(
    flat_f: ApplyFn, theta: list[jax.Array], x: PyTree, n: int
) -> tuple[int | None, Coupling | None]:
    """Returns O, and where examples interact, by the program of f on n examples.

    O is None if f does not take n examples, or does not return as many rows.
    """
    closed = traced_on_examples(flat_f, theta, x, n)
    if closed is None or closed.out_avals[0].shape[0] != n:
        return None, None
    return closed.out_avals[0].shape[1], find_coupling(closed, [0] * len(jax.tree.leaves(x)), [0])


def traced_on_examples(f: ApplyFn, theta: list[jax.Array], x: PyTree, n: int) -> Any:
    """The closed jaxpr of f on n of the examples on axis 0 of each leaf; None if it takes no n."""
    try:
        return jax.make_jaxpr(f)(theta, _some_examples(x, n))
    except Exception:  # made for one example, or for all: what is wrong else, another trace says
        return None


def _some_examples(x: PyTree, n: int) -> PyTree:
    """The shapes of n of the examples on axis 0 of each leaf."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((n, *leaf.shape[1:]), leaf.dtype),
        jax.eval_shape(lambda x: x, x),
    )


def warn_of_coupling(coupling: Coupling | None) -> None:
    """Warns that the kernel is not that of the batch, where examples interact."""
    if coupling is None:
        return
    where = f" ({coupling.line})" if coupling.line else ""
    what = (
        f"examples interact in {coupling.primitive}{where}, as in BatchNorm in train mode"
        if coupling.primitive
        else "its outputs have the examples in another order, or on another axis, than its inputs"
    )
    msg = (
        f"An output of f depends on other examples than its own: {what}. batched=True takes the "
        "examples one by one, so this is not the kernel of the batch. Evaluate f in eval mode, or "
        "say batched=False to take the batch as a whole."
    )
    warnings.warn(msg, CoupledExamplesWarning, 3)


def mode_and_choices(outputs: Any, x2: PyTree | None) -> tuple[str, Any, Any]:
    """The mode and, for chosen logits, the choices for x1 and x2, of the outputs of options.

    Raises:
      KernelInputError: there are not as many choices as inputs.
    """
    if isinstance(outputs, str):
        return outputs, None, None
    if is_readout(outputs):
        return mode_of(outputs), None, None
    pair = outputs if isinstance(outputs, tuple) else (outputs, outputs)
    if x2 is None and isinstance(outputs, tuple):
        msg = (
            "outputs is a pair but there is no x2: pass one integer for each example, as an array "
            "or a list."
        )
        raise KernelInputError(msg)
    if len(pair) != 2:
        msg = f"outputs has {len(pair)} entries; choose logits with one array, or a pair with x2."
        raise KernelInputError(msg)
    if x2 is not None and not isinstance(outputs, tuple) and pair[0].ndim > 0:
        msg = (
            "outputs is one array of chosen logits but x2 is given: pass a pair of arrays "
            "(for x1, for x2), or one integer for all examples."
        )
        raise KernelInputError(msg)
    return "chosen", *pair


def _check_choice(name: str, choice: Any, shape: tuple[int, int]) -> jax.Array:
    """Returns the chosen logits of one side as an integer array [N]."""
    n, o = shape
    if not jnp.issubdtype(choice.dtype, jnp.integer):
        msg = f"outputs for {name} is {choice.dtype}: chosen logits must be integers."
        raise DtypeError(msg)
    if choice.shape not in ((), (n,)):
        msg = f"outputs for {name} has shape {choice.shape}; expected ({n},), one per example."
        raise KernelInputError(msg)
    if not isinstance(choice, jax.core.Tracer):
        values = np.asarray(choice)
        if values.size and not (values.min() >= 0 and values.max() < o):
            msg = (
                f"outputs for {name} chooses logits {values.min()} to {values.max()}; f has {o} "
                f"outputs per example, numbered from 0 to {o - 1}."
            )
            raise KernelInputError(msg)
    return jnp.broadcast_to(jnp.asarray(choice), (n,))
