r"""The tangent kernel as a linear operator, for N O too large to form it.

    Theta v = J (J^T v),    J^T v: one vector-Jacobian product,  J u: one Jacobian-vector product

A product costs about three forward passes over all N examples and memory for one chunk of them and
two sets of parameters, whatever N O is. Examples are taken a chunk at a time by `jax.lax.scan`.

>>> import jax, jax.numpy as jnp
>>> f = lambda params, x: jnp.tanh(x @ params["w"])
>>> params = {"w": jax.random.normal(jax.random.key(0), (3, 2))}
>>> operator = KernelOperator(f, params, jax.random.normal(jax.random.key(1), (4, 3)))
>>> operator.shape, jax.jit(lambda op, v: op.matvec(v))(operator, jnp.ones((4, 2))).shape
((4, 2), (4, 2))
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntk_train._arguments import described, numeric_array, whole_number
from ntk_train._types import ApplyFn, KernelProblem, ParamFilter, PyTree
from ntk_train.errors import DtypeError, KernelInputError
from ntk_train.kernel.narrow import widened
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.precision import precision_of_products
from ntk_train.kernel.problem import (
    check_f,
    make_problem,
    on_one_device,
    replicated,
    warn_of_coupling,
)
from ntk_train.kernel.whole import usual_promotion


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "x", "chosen", "model_state"],
    meta_fields=["f", "outputs", "chunk", "batched", "precision", "param_filter"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class KernelOperator:
    """Theta of `f` at `params` on `x`, by products with vectors; a pytree, so `jax.jit` takes it.

    Attributes:
      f: as in `ntk_train.ntk`; hashable, as a static argument of `jax.jit`.
      params: as in `ntk_train.ntk`, with arrays as leaves; close f over what is none.
      x: the N inputs.
      outputs: "full", or "sum" of the outputs. Traces are not offered: the product with one is O
        products with the full kernel.
      chunk: how many examples are taken at a time; None for all at once.
      batched: as in `ntk_train.ntk`. False, for examples that interact, takes them all at once.
      precision: as in `ntk_train.ntk`.
      param_filter: as in `ntk_train.ntk`.
      chosen: integers [N], the chosen logit of each example, in place of `outputs`.
      model_state: as in `ntk_train.ntk`, with arrays as leaves.

    Raises:
      KernelInputError: an argument is not of its kind.
    """

    f: ApplyFn
    params: PyTree
    x: PyTree
    outputs: str = "full"
    chunk: int | None = None
    batched: bool = True
    precision: str | None = "float32"
    param_filter: ParamFilter | None = None
    chosen: Any = None
    _: dataclasses.KW_ONLY
    model_state: PyTree = None

    def __post_init__(self) -> None:
        """Refuses what could not work in any product; arrays are checked there."""
        check_f(self.f)
        self._options("full")
        if not isinstance(self.outputs, str) or self.outputs not in ("full", "sum"):
            msg = (
                f"outputs={described(self.outputs)}; a KernelOperator has 'full' and 'sum', and "
                "chosen= for chosen logits. The product with a trace is O products with the full "
                "kernel."
            )
            raise KernelInputError(msg)
        if self.chunk is not None:
            expected = "1 or more examples at a time, or None for all"
            whole_number("chunk", self.chunk, expected)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the vectors: [N, O], or [N] for the sum and for chosen outputs."""
        return self._out_info().shape

    @property
    def dtype(self) -> Any:
        """Dtype of the vectors, that of the outputs."""
        return self._out_info().dtype

    def matvec(self, v: Array | np.ndarray | list) -> Array:
        """Theta v, of the shape of v; complex where v is.

        Raises:
          KernelInputError: v has another shape, or an argument of the operator does not fit.
          DtypeError: v holds no numbers.
        """
        return self._multiplied(v, None)

    def cross(self, v: Array | np.ndarray | list, x: PyTree) -> Array:
        """Theta(x, x_operator) v: what a vector of the operator's examples is at other examples.

        Args:
          v: numbers, of the operator's shape.
          x: M inputs.

        Returns:
          [M, O] or [M]; complex where v is.

        Raises:
          KernelInputError: the operator is of chosen outputs, which other examples have none of; or
            an argument does not fit.
          DtypeError: v holds no numbers.
        """
        if x is None:
            msg = "x is None; expected M inputs. The product at the operator's own is matvec(v)."
            raise KernelInputError(msg)
        if self.chosen is not None:
            msg = "chosen is given: other examples have no chosen outputs; use outputs='full'."
            raise KernelInputError(msg)
        return self._multiplied(v, x)

    def _multiplied(self, v: Any, x: PyTree | None) -> Array:
        """The product with any numbers; of complex ones the real kernel takes each part."""
        _check_arrays("params", self.params)
        _check_arrays("model_state", self.model_state)
        for inputs in (self.x, x):
            _check_arrays("x", inputs)
        x = None if x is None else on_one_device("x", x)
        left = dataclasses.replace(self, x=on_one_device("x", self.x))
        v = replicated(_as_vector(v))
        if not jnp.iscomplexobj(v):
            return _product(left, v, x)
        real, imaginary = _product(left, v.real, x), _product(left, v.imag, x)
        dtype = jnp.promote_types(real.dtype, jnp.float32)
        return jax.lax.complex(real.astype(dtype), imaginary.astype(dtype))

    def _options(self, outputs: Any) -> KernelOptions:
        return KernelOptions(
            outputs=outputs,
            batched=self.batched,
            precision=self.precision,
            param_filter=self.param_filter,
        )

    def _problem(self) -> KernelProblem:
        with precision_of_products(self.precision):
            problem = make_problem(
                self.f,
                self.params,
                self.x,
                None,
                self._options(self.outputs if self.chosen is None else self.chosen),
                model_state=self.model_state,
                name="x",
            )
            return widened(problem)

    def _out_info(self) -> Any:
        with usual_promotion():
            problem = self._problem()
            return jax.eval_shape(self._side(problem), problem.theta, problem.x1)

    @staticmethod
    def _side(problem: KernelProblem) -> Callable[[list[jax.Array], PyTree], jax.Array]:
        if not problem.batched:
            return problem.f1
        return lambda theta, x: jax.vmap(problem.f1, (None, 0))(theta, x)

    def _pull(self, v: Array) -> list[jax.Array]:
        """J^T v as the differentiated leaves."""
        problem = self._problem()
        info = jax.eval_shape(self._side(problem), problem.theta, problem.x1)
        if v.shape != info.shape:
            msg = f"v has shape {v.shape}; this operator takes {info.shape}."
            raise KernelInputError(msg)
        v = v.astype(info.dtype)
        side = self._side(problem)

        def of_chunk(x: PyTree, v: jax.Array) -> list[jax.Array]:
            _, pull = jax.vjp(lambda theta: side(theta, x), problem.theta)
            return pull(v)[0]

        with precision_of_products(self.precision):
            if not self._in_chunks(v.shape[0]):
                return of_chunk(problem.x1, v)

            def add(total: list[jax.Array], chunk: Any) -> tuple[list[jax.Array], None]:
                return jax.tree.map(jnp.add, total, of_chunk(*chunk)), None

            # The last chunk is filled up with examples whose part of v is zero.
            zeros = jax.tree.map(jnp.zeros_like, problem.theta)
            return jax.lax.scan(
                add, zeros, (self._chunks(problem.x1), self._chunks(v, zeros=True))
            )[0]

    def _push(self, tangent: list[jax.Array], x: PyTree) -> jax.Array:
        """J u on the inputs x of a problem."""
        problem = self._problem()
        side = self._side(problem)

        def of_chunk(x: PyTree) -> jax.Array:
            return jax.jvp(lambda theta: side(theta, x), (problem.theta,), (tangent,))[1]

        with precision_of_products(self.precision):
            n = jax.tree.leaves(x)[0].shape[0]
            if not self._in_chunks(n):
                return of_chunk(x)
            _, rows = jax.lax.scan(lambda _, x: (None, of_chunk(x)), None, self._chunks(x))
            return rows.reshape(-1, *rows.shape[2:])[:n]

    def _in_chunks(self, n: int) -> bool:
        return self.batched and self.chunk is not None and self.chunk < n

    def _chunks(self, tree: PyTree, *, zeros: bool = False) -> PyTree:
        """Leaves as [number of chunks, chunk, ...], filled up with zeros or with the last one."""
        assert self.chunk is not None
        size = int(self.chunk)

        def split(leaf: jax.Array) -> jax.Array:
            n = leaf.shape[0]
            whole = n + -n % size
            if zeros:
                leaf = jnp.pad(leaf, [(0, whole - n)] + [(0, 0)] * (leaf.ndim - 1))
            else:
                leaf = leaf[jnp.minimum(jnp.arange(whole), n - 1)]
            return leaf.reshape(-1, size, *leaf.shape[1:])

        return jax.tree.map(split, tree)


@jax.jit
def _product(operator: KernelOperator, v: Array, x: PyTree | None) -> Array:
    """Theta(x, x_operator) v, compiled; None for the operator's own x."""
    left = operator if x is None else dataclasses.replace(operator, x=x)
    with usual_promotion():
        problems = [side._problem() for side in ([operator] if x is None else [operator, left])]
        warn_of_coupling(next((p.coupling for p in problems if p.coupling is not None), None))
        return left._push(operator._pull(v), problems[-1].x1)


def _as_vector(v: Any) -> jax.Array:
    """A vector of numbers of any dtype, as an array.

    Raises:
      DtypeError: it holds none.
    """
    numbers = v if isinstance(v, jax.Array) else numeric_array("v", v, "an array of numbers")
    is_number = jnp.issubdtype(numbers.dtype, jnp.number) or numbers.dtype == bool
    if not is_number:
        msg = f"v is {described(v)}; expected an array of numbers, of the operator's shape."
        raise DtypeError(msg)
    return jnp.asarray(numbers)


def _check_arrays(name: str, tree: PyTree) -> None:
    """Refuses leaves that `jax.jit` does not take.

    Raises:
      KernelInputError: there is one.
    """
    kinds = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not isinstance(leaf, kinds):
            where = jax.tree_util.keystr(path)
            msg = (
                f"{name}{where} is {described(leaf)}; a KernelOperator is a pytree of arrays. "
                "Close f over what is none."
            )
            raise KernelInputError(msg)
