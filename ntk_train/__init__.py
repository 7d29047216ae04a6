"""The finite-width Neural Tangent Kernel of a real network, fast enough to be a training metric."""

from ntk_train.kernel import NtkImplementation as NtkImplementation
from ntk_train.kernel import empirical_ntk_fn as empirical_ntk_fn
from ntk_train.kernel import empirical_ntk_vp_fn as empirical_ntk_vp_fn
from ntk_train.kernel import ntk as ntk
