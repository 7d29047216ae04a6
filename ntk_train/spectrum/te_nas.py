r"""The training-free proxy of TE-NAS: the condition number of a small kernel at initialisation.

    kappa = lambda_max / lambda_min of J J^T,    J[n] = d sum_o f(x)[n,o] / d weights,

with BatchNorm in train mode on the batch, weights only (no biases), averaged over initialisations:
W. Chen, X. Gong, Z. Wang, *Neural Architecture Search on ImageNet in Four GPU Hours: A
Theoretically Inspired Perspective*, ICLR 2021, section 3.1.1 and equation 5. Weights are what their
code takes: each parameter whose name has "weight" in it (`lib/procedures/ntk.py` of
VITA-Group/TENAS), and so in PyTorch the scale of BatchNorm too. A lower proxy is taken as a sign
that the network is easier to train.

It is the condition number of another kernel than the full one, or the trace: these may order
networks otherwise. docs/diagnostics.md says by how much, on a small space.

>>> import jax, jax.numpy as jnp
>>> init = lambda key: {"Dense_0": {"kernel": jax.random.normal(key, (8, 2))}}
>>> f = lambda params, x: jnp.tanh(x @ params["Dense_0"]["kernel"])
>>> proxy = te_nas_condition_number(f, init, jax.random.normal(jax.random.key(0), (4, 8)))
>>> len(proxy.spectra), proxy.condition_number >= 1
(3, True)
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ntk_train._arguments import check_function, check_type, whole_number
from ntk_train._types import ApplyFn, ParamFilter, PyTree
from ntk_train.errors import KernelInputError
from ntk_train.kernel import ntk
from ntk_train.spectrum.eigen import Spectrum, kernel_spectrum


@dataclasses.dataclass(frozen=True, eq=False)
class TeNasProxy:
    """The proxy of one network.

    Attributes:
      spectra: of the kernel at each initialisation.
    """

    spectra: tuple[Spectrum, ...]

    @property
    def condition_number(self) -> float:
        """The mean over initialisations, as TE-NAS takes it; a lower bound if one of them is."""
        return float(np.mean([spectrum.condition_number for spectrum in self.spectra]))

    @property
    def condition_is_lower_bound(self) -> bool:
        """Whether the smallest eigenvalue is noise at some initialisation."""
        return any(spectrum.condition_is_lower_bound for spectrum in self.spectra)

    @property
    def median_condition_number(self) -> float:
        """The median over initialisations, which one bad start does not decide."""
        return float(np.median([spectrum.condition_number for spectrum in self.spectra]))


def weights_only(path: str) -> bool:
    """Whether PyTorch would name it a weight: a kernel, an embedding or the scale of a norm."""
    return path.rpartition("/")[2] in ("kernel", "embedding", "scale")


def te_nas_condition_number(
    f: ApplyFn,
    init: Callable[[jax.Array], PyTree] | None,
    x: PyTree,
    *,
    params: Sequence[PyTree] = (),
    seeds: Sequence[int] = (0, 1, 2),
    param_filter: ParamFilter | None = weights_only,
    implementation: str = "auto",
) -> TeNasProxy:
    """Computes TE-NAS's proxy of a network.

    Args:
      f: `f(params, x)` in train mode: BatchNorm takes the statistics of x. Hashable; one f compiles
        once.
      init: from a random key to params; None with `params`.
      x: one batch of inputs, some tens of them.
      params: params of several initialisations, in place of `init`.
      seeds: of the initialisations.
      param_filter: which parameters are weights; `weights_only` fits Flax's names.
      implementation: as in `ntk_train.ntk`.

    Raises:
      KernelInputError: neither or both of init and params are given, no seed, or no weight is left;
        or an argument is not of its kind.
      NonFiniteKernelError: the kernel at an initialisation has NaN or infinite entries.
    """
    check_function("f", f, "a function f(params, x) -> outputs")
    if param_filter is not None:
        check_function("param_filter", param_filter, "a function from a path to True or False")
    check_type("params", params, (list, tuple), "a list of params, one for each initialisation")
    if (init is None) == (len(params) == 0):
        msg = "Give either init, a function from a random key to params, or a list params."
        raise KernelInputError(msg)
    starts = list(params) if init is None else _initialised(init, seeds)

    kernels = [_kernel(f, start, x, param_filter, implementation) for start in starts]
    return TeNasProxy(tuple(kernel_spectrum(kernel) for kernel in kernels))


def _initialised(init: Callable[[jax.Array], PyTree], seeds: Sequence[int]) -> list[PyTree]:
    check_function("init", init, "a function from a random key to params")
    expected = "one whole number or more for the initialisations, as (0, 1, 2)"
    check_type("seeds", seeds, (list, tuple, range, np.ndarray), expected)
    if not len(seeds):
        msg = f"seeds is empty; expected {expected}."
        raise KernelInputError(msg)
    numbers = [whole_number("seeds", seed, expected, least=-math.inf) for seed in seeds]
    return [init(jax.random.key(number)) for number in numbers]


@functools.partial(jax.jit, static_argnames=("f", "param_filter", "implementation"))
def _kernel(
    f: ApplyFn, params: PyTree, x: PyTree, param_filter: ParamFilter | None, implementation: str
) -> Any:
    return ntk(
        f,
        params,
        x,
        outputs="sum",
        batched=False,
        param_filter=param_filter,
        implementation=implementation,
    )
