"""What is compiled for the tiles of a kernel: what a side comes to, and a tile from both."""

import hashlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_train._types import ApplyFn, PyTree
from ntk_train.kernel.auto import Resolved
from ntk_train.kernel.failed_call import bound
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.pair import Sides, arrays_of, keeps_rows, pair_of, resolve_sides
from ntk_train.kernel.problem import split_params
from ntk_train.kernel.readout import name_of_outputs, read_out


class Programs:
    """What is compiled for tiles of some size: what a side comes to, and a tile from both.

    Attributes:
      inputs: of x1 and of x2, which may be the same.
    """

    def __init__(
        self, f: ApplyFn, whole: tuple[PyTree, PyTree], sides: Sides, options: KernelOptions
    ) -> None:
        self._f, self._whole, self._options = f, whole, options
        self._is_one = len(sides.inputs) == 1
        self.inputs = sides.inputs[0], sides.inputs[-1]
        # Parameters are arguments: with constants XLA would compute while it compiles.
        self._arguments, self._with = arrays_of(whole)
        self._plans: dict[tuple[int, int], Resolved] = {}
        self._side = jax.jit(self._of_side, static_argnums=(1, 3))
        self._tile = jax.jit(self._of_both, static_argnums=3)

    def side(self, side: int, start: int, sizes: tuple[int, int]) -> PyTree:
        """What some inputs of one side come to, those of a row or column of tiles."""
        x = jax.tree.map(lambda leaf: leaf[start : start + sizes[side]], self.inputs[side])
        return self._side(self._arguments, side, x, sizes)

    def tile(self, left: PyTree, right: PyTree, sizes: tuple[int, int]) -> jax.Array:
        """A tile from what both sides come to."""
        return self._tile(self._arguments, left, right, sizes)

    def dtype(self, sizes: tuple[int, int]) -> np.dtype:
        """Of the kernel."""

        def tile(*inputs: PyTree) -> jax.Array:
            sides = [self._of_side(self._arguments, i, x, sizes) for i, x in enumerate(inputs)]
            return self._of_both(self._arguments, sides[0], sides[1], sizes)

        return np.dtype(jax.eval_shape(tile, *self._shapes(sizes)).dtype)

    def fits(self, sizes: tuple[int, int]) -> bool:
        """Whether the rows of both sides of a tile are in memory together."""
        plan = self._planned(sizes).plan
        return plan is None or keeps_rows(plan)

    def is_one(self, sizes: tuple[int, int]) -> bool:
        """Whether what examples come to is the same on either side."""
        return self._is_one and pair_of(self._planned(sizes)).is_one

    def _planned(self, sizes: tuple[int, int]) -> Resolved:
        """What is computed of inputs of some sizes; planned once."""

        def plan(*inputs: PyTree) -> tuple:
            self._plans[sizes] = self._resolved(self._arguments, *inputs)
            return ()

        if sizes not in self._plans:
            jax.eval_shape(plan, *self._shapes(sizes))
        return self._plans[sizes]

    def about(self, sizes: tuple[int, int]) -> dict[str, Any]:
        """What the kernel is of."""
        params, state = self._whole
        options = self._options
        _, paths, _ = split_params(params, options.param_filter)
        (x1, choice1), (x2, choice2) = self.inputs
        implementation = self._planned(sizes).implementation
        program, values = self._of_first_examples(x1)
        return {
            "program of f": f"{program} by JAX {jax.__version__}",
            "dtype": self.dtype(sizes).name,
            "outputs": name_of_outputs(options.outputs),
            "directions": _digest(options.outputs) if hasattr(options.outputs, "ndim") else None,
            "implementation": implementation,
            "precision": options.precision,
            "differentiated parameters": hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16],
            "parameters": _digest((params, state)),
            "x1": _digest((x1, choice1)),
            "x2": None if self._is_one else _digest((x2, choice2)),
            "outputs of f": [float(v) for leaf in values for v in np.ravel(leaf)[:8]],
        }

    def _of_first_examples(self, x: PyTree) -> tuple[str, list[jax.Array]]:
        """A checksum of the program of f with its constants, and its outputs at some examples."""
        first = jax.tree.map(lambda leaf: jnp.asarray(leaf[:2]), x)
        closed = jax.make_jaxpr(self._outputs)(self._arguments, first)
        text = re.sub(r"0x[0-9a-f]+", "", str(closed.jaxpr))  # where in memory a function is
        checksum = hashlib.sha256(f"{text}{_digest(closed.consts)}".encode()).hexdigest()[:16]
        if 0 in jax.tree.leaves(first)[0].shape[:1]:
            return checksum, []
        return checksum, jax.tree.leaves(jax.jit(self._outputs)(self._arguments, first))

    def _shapes(self, sizes: tuple[int, int]) -> list[PyTree]:
        """Of the inputs of a tile."""
        return [
            jax.tree.map(lambda v, n=n: jax.ShapeDtypeStruct((n, *v.shape[1:]), v.dtype), x)
            for n, x in zip(sizes, self.inputs, strict=True)
        ]

    def _outputs(self, arguments: list[Any], x: PyTree) -> PyTree:
        """What the kernel is of, at some inputs."""
        params, state = self._with(arguments)
        return read_out(self._options.outputs)(bound(self._f, state)(params, x))

    def _resolved(self, arguments: list[Any], *inputs: PyTree) -> Resolved:
        params, state = self._with(arguments)
        return resolve_sides(self._f, params, inputs, self._options, state)[0]

    def _of_side(
        self, arguments: list[Any], side: int, x: PyTree, sizes: tuple[int, int]
    ) -> PyTree:
        inputs = self._zeros(sizes)
        inputs[side] = x
        resolved = self._resolved(arguments, *inputs)
        x1, x2 = resolved.problem.x1, resolved.problem.x2
        return pair_of(resolved).side(side, x2 if side else x1)

    def _of_both(
        self, arguments: list[Any], left: PyTree, right: PyTree, sizes: tuple[int, int]
    ) -> jax.Array:
        (tile,) = pair_of(self._resolved(arguments, *self._zeros(sizes))).block(left, right)
        return tile

    def _zeros(self, sizes: tuple[int, int]) -> list[PyTree]:
        """In place of inputs of which nothing but the shapes is asked."""
        shapes = self._shapes(sizes)
        return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)


_CHUNK = 1 << 24  # bytes


def _digest(tree: PyTree) -> str:
    """Of the numbers of a tree, with their shapes and dtypes."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        found.update(jax.tree_util.keystr(path).encode())
        if not isinstance(leaf, (jax.Array, np.ndarray, bool, int, float, complex, np.generic)):
            continue
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        found.update(f"{array.dtype}{array.shape}".encode())
        rows = np.atleast_1d(array)
        # Some at a time: a memory map may be larger than the memory.
        step = max(1, _CHUNK // max(1, rows.nbytes // max(1, len(rows))))
        for start in range(0, len(rows), step):
            found.update(np.ascontiguousarray(rows[start : start + step]).tobytes())
    return found.hexdigest()[:16]
