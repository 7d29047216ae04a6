"""What goes wrong, in words: the symptom, what was expected, and the remedy.

Errors of the caller derive from `ValueError` or `TypeError`, so that code which knows nothing of
this library catches them too. Invariants of the library itself are `assert`s.
"""


class NTKError(Exception):
    """Base of the library's own errors."""


class KernelInputError(NTKError, ValueError):
    """An argument has a shape, a structure or a value that no kernel can be computed from."""


class DtypeError(NTKError, TypeError):
    """An argument has a dtype for which the kernel is not defined (complex, for example)."""


class UnfactoredError(NTKError, ValueError):
    """With `strict=True`: a parameter is used in a way that no rule of `structured` factors."""


class UnfactoredWarning(UserWarning):
    """A large parameter is used in a way that no rule of `structured` factors: it is slower."""


class CoupledExamplesWarning(UserWarning):
    """Examples interact, and `batched=True` says that they do not: the kernel is another one."""


class ConvergenceWarning(UserWarning):
    """An iteration ended before it was as exact as was asked for; what it returns says how far."""


class NonFiniteKernelError(NTKError, ArithmeticError):
    """The kernel has NaN or infinite entries, so that its spectrum does not exist."""


class WrongKernelError(NTKError, ArithmeticError):
    """A kernel is not that of the function: plain derivatives of it say otherwise."""


class RuleError(NTKError):
    """A rule of `structured` gives factors in other shapes than it says: it has to be mended."""


class ConventionError(NTKError, ValueError):
    """Numbers of kernels that were computed in different conventions were to be compared."""
