"""The finite-width Neural Tangent Kernel of a real network, fast enough to be a training metric.

    f, params, x  ->  program/   the linearised program, cut where a weight meets data
                  ->  rules/     the Jacobian there as small factors
                  ->  kernel/    the NTK of any JAX function: `ntk`
                  ->  spectrum/  eigenvalues, condition number: `kernel_spectrum`, `diagnose`
                  ->  monitor/   a hook in a training loop: `NTKHook`
                  ->  TensorBoard

`models/`, `data/` and `train/` stand beside this core and use it.
"""

from ntk_train._version import __version__ as __version__
from ntk_train.errors import ConventionError as ConventionError
from ntk_train.errors import ConvergenceWarning as ConvergenceWarning
from ntk_train.errors import CoupledExamplesWarning as CoupledExamplesWarning
from ntk_train.errors import DtypeError as DtypeError
from ntk_train.errors import KernelInputError as KernelInputError
from ntk_train.errors import NonFiniteKernelError as NonFiniteKernelError
from ntk_train.errors import NTKError as NTKError
from ntk_train.errors import UnfactoredError as UnfactoredError
from ntk_train.errors import UnfactoredWarning as UnfactoredWarning
from ntk_train.errors import WrongKernelError as WrongKernelError
from ntk_train.kernel import Certificate as Certificate
from ntk_train.kernel import Explanation as Explanation
from ntk_train.kernel import NtkImplementation as NtkImplementation
from ntk_train.kernel import Projections as Projections
from ntk_train.kernel import TraceEstimate as TraceEstimate
from ntk_train.kernel import certify as certify
from ntk_train.kernel import empirical_ntk_fn as empirical_ntk_fn
from ntk_train.kernel import empirical_ntk_vp_fn as empirical_ntk_vp_fn
from ntk_train.kernel import estimate_trace_kernel as estimate_trace_kernel
from ntk_train.kernel import explain as explain
from ntk_train.kernel import ntk as ntk
from ntk_train.kernel import ntk_to as ntk_to
from ntk_train.monitor import Convention as Convention
from ntk_train.monitor import Measurement as Measurement
from ntk_train.monitor import NTKHook as NTKHook
from ntk_train.monitor import linen_fn as linen_fn
from ntk_train.monitor import nnx_fn as nnx_fn
from ntk_train.spectrum import CrossEntropy as CrossEntropy
from ntk_train.spectrum import Diagnostics as Diagnostics
from ntk_train.spectrum import KernelOperator as KernelOperator
from ntk_train.spectrum import ReferenceKernels as ReferenceKernels
from ntk_train.spectrum import Spectrum as Spectrum
from ntk_train.spectrum import SquaredLoss as SquaredLoss
from ntk_train.spectrum import Training as Training
from ntk_train.spectrum import diagnose as diagnose
from ntk_train.spectrum import kernel_spectrum as kernel_spectrum
