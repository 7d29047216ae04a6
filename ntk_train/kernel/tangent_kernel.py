"""The public function: the finite-width Neural Tangent Kernel of any differentiable JAX function.

    Theta[n,o,m,p] = sum_w df(x1)[n,o]/dtheta_w * df(x2)[m,p]/dtheta_w

>>> import jax, jax.numpy as jnp, ntk_train
>>> f = lambda params, x: jnp.tanh(x @ params["w"])
>>> params = {"w": jax.random.normal(jax.random.key(0), (3, 2))}
>>> x = jax.random.normal(jax.random.key(1), (4, 3))
>>> ntk_train.ntk(f, params, x).shape
(4, 2, 4, 2)
>>> ntk_train.ntk(f, params, x, outputs="trace").shape
(4, 4)
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ntk_train._arguments import yes_or_no
from ntk_train._types import ApplyFn, ParamFilter, PyTree
from ntk_train.kernel.auto import resolve
from ntk_train.kernel.checked import checked
from ntk_train.kernel.failed_call import bound
from ntk_train.kernel.on_mesh import compute_on_mesh, division_of
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.precision import precision_of_products
from ntk_train.kernel.problem import on_one_device, warn_of_coupling
from ntk_train.kernel.readout import Projections
from ntk_train.kernel.whole import as_one_program


def ntk(
    f: ApplyFn,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None = None,
    *,
    outputs: str | Array | np.ndarray | int | list | tuple | Projections | Callable = "full",
    implementation: str = "auto",
    batched: bool = True,
    precision: str | None = "float32",
    param_filter: ParamFilter | None = None,
    per_layer: bool | Callable[[str], str] = False,
    memory_budget: float | int | None = None,
    strict: bool = False,
    model_state: PyTree = None,
    check: bool = False,
    mesh: jax.sharding.Mesh | None = None,
    axis: str | None = None,
) -> Any:
    """Computes the finite-width Neural Tangent Kernel of `f` at `params`.

    A pure JAX function: use it under `jax.jit` and `jax.vmap`, and differentiate it in `x1`, `x2`
    and `params` where `f` is twice differentiable. Outside of them it is compiled anew in each
    call, and under `jax.vmap` or `jax.grad` alone it runs op by op, which is slow: put `jax.jit`
    around them, and around more than one kernel of the same shapes.

    Args:
      f: any JAX function `f(params, x) -> outputs`; all three are pytrees, and each leaf of the
        outputs has the examples on axis 0. The other axes and the leaves together are the O
        outputs of an example, in the order of `jax.tree.leaves` and row-major in each. With a
        model_state it is `f(params, x, model_state)`.
      params: the parameters. Leaves that are not floating point are held constant. For a Flax
        model this is `variables["params"]`, never the running statistics: see model_state.
      x1: N inputs; of any dtype. With `batched` each leaf has the examples on axis 0. Inputs that
        are sharded over devices are gathered first, unless a mesh is given. Under an outer
        `jax.jit` that cannot be seen: without a mesh do not shard examples there, as XLA's
        gradients of convolutions would be wrong.
      x2: M other inputs, or None for the kernel of x1 with itself, which takes one set of
        derivatives and is symmetric.
      outputs: `"full"`, all pairs of outputs; `"trace"`, the sum over equal outputs (not their
        mean); `"sum"`, the kernel of the sum of the outputs (the pseudo-NTK); `"diagonal"`, each
        output with itself; or integers, the chosen logit of each example: an array [N], a
        pair of arrays [N], [M] when x2 is given, or one integer for all. Or the kernel of what is
        made of the outputs: `Projections(k)`, an estimate of the trace that takes k backward passes
        in place of O; a matrix [O, k] of floating point, the full kernel in these directions; or a
        function of the outputs as f returns them, the full kernel of what it returns.
      implementation: `"structured"`, which factors the Jacobians of dense layers and convolutions;
        `"jacobian_contraction"` and `"ntk_vector_products"`, the plain references; or `"auto"`, the
        one that takes the fewest operations.
      batched: True says that the outputs of an example depend on that example alone, and computes
        example by example under `jax.vmap`. False allows examples to interact, as in BatchNorm in
        train mode. True gives a `CoupledExamplesWarning` where the program of f shows that they do.
      precision: of the matrix products and convolutions, inside of f too where f leaves it open.
        `"float32"` is as exact as float32 by whatever is fastest on the device; `"highest"` is
        plain float32. Two take less for the backward pass and the Jacobians that are formed, and
        float32 for the rest, on a GPU or TPU: `"split"` three bfloat16 terms, which keep 16 bits of
        each factor, and `"fast"` TF32 or bfloat16, which keep 11 or 8. Any name that
        `jax.default_matmul_precision` or a product of JAX takes ("default", "BF16_BF16_F32_X3",
        ...) holds for all stages. None leaves f as it is, and computes the products of the kernel
        itself in float32. `ntk_train.kernel.precision` has the stages, and
        `ntk_train.program.rounding` what a device makes of each name. The stages are those of the
        structured implementation; the others take the precision of the forward pass throughout.
      param_filter: from a parameter's path ("Dense_0/kernel") to whether it is differentiated.
      per_layer: True returns the parts of the kernel by layer, which add up to the whole: a layer
        is what a path names before its last "/". A function from the path to the name of a group
        makes other parts.
      memory_budget: bytes that the structured implementation may take, beside the arguments and the
        kernel; about three quarters of a GPU's memory by default, and 8 GB on a CPU. Where the rows
        of the factored Jacobian do not fit, those of one layer are there at a time, a trace is
        summed over a few outputs at a time, and at last the kernel is made of kernels of a few
        examples with a few others, which takes their derivatives anew for each. It is a target,
        not a limit: the rows of one example are not divided.
      strict: True raises where a parameter is used in a way that the structured implementation
        cannot factor. By default large ones are named in an `UnfactoredWarning`; the kernel is
        right in any case.
      model_state: what f needs beside params, held constant, as running statistics
        (`{"batch_stats": variables["batch_stats"]}` for `ntk_train.linen_fn(model)`).
      check: True compares the kernel with plain derivatives of f, which takes a few backward passes
        of f over all examples, and raises where it is wrong; not under `jax.jit`. See
        `ntk_train.certify`.
      mesh: devices to divide the work over: each takes the derivatives of some of the examples, and
        has the rows of the kernel that belong to them. Inputs may be anywhere, on the mesh too, and
        their number need not divide by that of the devices; params are copied to each. The kernel
        comes out divided by its rows, with `check` whole on each device; `jax.device_get` gathers
        it. f may have no sharding constraints of its own. To differentiate such a kernel put
        `jax.jit` around it, as for any function on a mesh in Explicit mode.
      axis: the axis of the mesh that the examples are divided over, None for its first.

    Returns:
      The kernel, in float32 or wider: [N, O, M, O] for full, [N, M] for trace, sum, projections and
      chosen logits, [N, M, O] for diagonal. With `per_layer` a dict of such kernels by name.

    Raises:
      KernelInputError: shapes, structure or values of an argument do not fit; the text says which.
      UnfactoredError: with `strict`, where a parameter cannot be factored.
      DtypeError: complex parameters or outputs, or outputs that are not floating point.
      WrongKernelError: with `check`, where the kernel is not that of f.

    References:
      R. Novak, J. Sohl-Dickstein, S. S. Schoenholz, *Fast Finite Width Neural Tangent Kernel*,
      ICML 2022, equation 1 and table 1. For "sum": M. A. Mohamadi, W. Bae, D. J. Sutherland, *A
      Fast, Well-Founded Approximation to the Empirical Neural Tangent Kernel*, ICML 2023.
    """
    options = KernelOptions(
        outputs=outputs,
        implementation=implementation,
        batched=batched,
        precision=precision,
        param_filter=param_filter,
        per_layer=per_layer,
        memory_budget=memory_budget,
        strict=strict,
    )
    yes_or_no("check", check)
    division = division_of(mesh, axis, options)
    if division is None:
        x1, x2 = on_one_device("x1", x1), on_one_device("x2", x2)

    def kernel(options: KernelOptions) -> Any:
        if division is not None:
            found = compute_on_mesh(f, params, x1, x2, options, model_state, division)
            return division.gathered(found) if check else found
        return compute(f, params, x1, x2, options, model_state)

    if not check:
        return kernel(options)
    return checked(kernel, bound(f, model_state), params, x1, x2, options)


def compute(
    f: ApplyFn,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None,
    options: KernelOptions,
    model_state: PyTree = None,
) -> Any:
    """What `ntk` returns for these options, without its check."""

    def kernel(params: PyTree, x1: PyTree, x2: PyTree | None, model_state: PyTree) -> Any:
        resolved, names = resolve(f, params, x1, x2, options, model_state)
        warn_of_coupling(resolved.problem.coupling)
        kernels = resolved.kernels()
        return dict(zip(names, kernels, strict=True)) if options.per_layer else kernels[0]

    with precision_of_products(options.precision):
        return as_one_program(kernel, params, x1, x2, model_state)
