"""Kernels of which the planner is told what to choose."""

import jax

from ntk_train.kernel.groups import groups_of
from ntk_train.kernel.options import KernelOptions
from ntk_train.kernel.plan import Choices, Plan
from ntk_train.kernel.problem import make_problem
from ntk_train.kernel.structured import prepare, structured


def plan_of(choices: Choices, f, params, x1, x2=None, per_layer=False, **options) -> Plan:
    """The plan of a structured kernel; the arguments are those of `ntk`, or their shapes."""
    found = []

    def trace(params, x1, x2):
        found.append(_planned(choices, f, params, x1, x2, per_layer, options)[0])
        return ()

    jax.eval_shape(trace, params, x1, x2)
    return found[0]


def kernel_of(choices: Choices, f, params, x1, x2=None, per_layer=False, **options):
    """The structured kernel, or its parts."""
    plan, names = _planned(choices, f, params, x1, x2, per_layer, options)
    kernels = structured(plan)
    return kernels[0] if per_layer is False else dict(zip(names, kernels))


def _planned(choices, f, params, x1, x2, per_layer, options):
    problem = make_problem(f, params, x1, x2, KernelOptions(per_layer=per_layer, **options))
    groups = groups_of(problem.paths, per_layer)
    return prepare(problem, list(groups.values()), choices), list(groups)
