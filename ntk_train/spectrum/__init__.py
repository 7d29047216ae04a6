"""From a kernel to its eigenvalues, condition number and what follows from them."""

from ntk_train.spectrum.alignment import (
    debiased_kernel_target_alignment as debiased_kernel_target_alignment,
)
from ntk_train.spectrum.alignment import kernel_target_alignment as kernel_target_alignment
from ntk_train.spectrum.alignment import top_space_alignment as top_space_alignment
from ntk_train.spectrum.change import kernel_distance as kernel_distance
from ntk_train.spectrum.change import kernel_velocity as kernel_velocity
from ntk_train.spectrum.change import principal_angles as principal_angles
from ntk_train.spectrum.change import relative_change as relative_change
from ntk_train.spectrum.convention import Convention as Convention
from ntk_train.spectrum.convention import check_comparable as check_comparable
from ntk_train.spectrum.decay import PowerLaw as PowerLaw
from ntk_train.spectrum.decay import entropy_rank as entropy_rank
from ntk_train.spectrum.decay import power_law as power_law
from ntk_train.spectrum.diagnostics import Diagnostics as Diagnostics
from ntk_train.spectrum.diagnostics import Training as Training
from ntk_train.spectrum.diagnostics import diagnose as diagnose
from ntk_train.spectrum.eigen import Spectrum as Spectrum
from ntk_train.spectrum.eigen import kernel_spectrum as kernel_spectrum
from ntk_train.spectrum.lanczos import MatrixOperator as MatrixOperator
from ntk_train.spectrum.lanczos import TopEigenvalues as TopEigenvalues
from ntk_train.spectrum.lanczos import top_eigenvalues as top_eigenvalues
from ntk_train.spectrum.layers import LayerDiagnostics as LayerDiagnostics
from ntk_train.spectrum.layers import layer_diagnostics as layer_diagnostics
from ntk_train.spectrum.learning_rate import critical_learning_rate as critical_learning_rate
from ntk_train.spectrum.learning_rate import guaranteed_learning_rate as guaranteed_learning_rate
from ntk_train.spectrum.learning_rate import hessian_weighted_kernel as hessian_weighted_kernel
from ntk_train.spectrum.learning_rate import sharpness as sharpness
from ntk_train.spectrum.learning_rate import stable_rate as stable_rate
from ntk_train.spectrum.linearised import LinearisedTraining as LinearisedTraining
from ntk_train.spectrum.linearised import loss_departure as loss_departure
from ntk_train.spectrum.losses import CrossEntropy as CrossEntropy
from ntk_train.spectrum.losses import SquaredLoss as SquaredLoss
from ntk_train.spectrum.minibatch import (
    minibatch_critical_learning_rate as minibatch_critical_learning_rate,
)
from ntk_train.spectrum.operator import KernelOperator as KernelOperator
from ntk_train.spectrum.reference import ReferenceKernels as ReferenceKernels
from ntk_train.spectrum.regression import Coefficients as Coefficients
from ntk_train.spectrum.regression import gradient_flow as gradient_flow
from ntk_train.spectrum.regression import kernel_ridge as kernel_ridge
from ntk_train.spectrum.stochastic import Estimate as Estimate
from ntk_train.spectrum.stochastic import SpectralDensity as SpectralDensity
from ntk_train.spectrum.stochastic import operator_trace as operator_trace
from ntk_train.spectrum.stochastic import spectral_density as spectral_density
from ntk_train.spectrum.te_nas import TeNasProxy as TeNasProxy
from ntk_train.spectrum.te_nas import te_nas_condition_number as te_nas_condition_number
