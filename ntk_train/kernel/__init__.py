"""From a function and its parameters to the kernel: public functions and implementations."""

from ntk_train.kernel.certificate import Certificate as Certificate
from ntk_train.kernel.certificate import certify as certify
from ntk_train.kernel.estimate import TraceEstimate as TraceEstimate
from ntk_train.kernel.estimate import estimate_trace_kernel as estimate_trace_kernel
from ntk_train.kernel.explain import Explanation as Explanation
from ntk_train.kernel.explain import explain as explain
from ntk_train.kernel.neural_tangents import NtkImplementation as NtkImplementation
from ntk_train.kernel.neural_tangents import empirical_ntk_fn as empirical_ntk_fn
from ntk_train.kernel.neural_tangents import empirical_ntk_vp_fn as empirical_ntk_vp_fn
from ntk_train.kernel.readout import Projections as Projections
from ntk_train.kernel.stored import Progress as Progress
from ntk_train.kernel.stored import ntk_to as ntk_to
from ntk_train.kernel.tangent_kernel import ntk as ntk
