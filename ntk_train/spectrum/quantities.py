"""The catalogue: what each number that is logged is, said once.

The numbers of `diagnose`, the tags of the hook, the charts of TensorBoard's "Custom Scalars", the
report and the tables in docs/diagnostics.md are made of it, or compared with it by a test. A new
number is an entry here, and its value in what computes the numbers of its kind: `Spectrum.scalars`,
`ReferenceKernels.scalars`, `LayerDiagnostics`, `diagnose`, or the hook for one of its own.

>>> quantity("effective_rank").title, quantity("lambda_max", layer=True).chart
('effective rank', 'Layers')
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Literal, TypeAlias

Needs: TypeAlias = Literal["kernel", "labels", "training", "references", "layers", "hook"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantity:
    """One number.

    Attributes:
      name: under which it is logged, without a prefix; of a layer, without the layer's name too.
      title: what it is called, in a few words.
      needs: the argument of `diagnose` without which it is not there; or "hook", for a number of
        the hook itself.
      definition: in a formula or a sentence; Markdown, as are the next five.
      range: of its values, and where it is NaN.
      unit: of its values; "" for a pure number.
      meaning: what it tells; "" where the definition says so.
      source: where the definition comes from; "" where it is plain.
      traps: how it misleads.
      chart: the chart of the report in which it is drawn; "" for none.
      panel: its chart in "Custom Scalars", whose axes are linear at first, so that only numbers of
        one size are drawn together; by default `chart`.
      legend: beside its curve, where the chart's title says the rest; by default `title`.
    """

    name: str
    title: str
    needs: Needs
    definition: str
    range: str
    unit: str = ""
    meaning: str = ""
    source: str = ""
    traps: str = ""
    chart: str = ""
    panel: str = ""
    legend: str = ""

    def __post_init__(self) -> None:
        """Fills in what follows from the other fields."""
        object.__setattr__(self, "panel", self.panel or self.chart)
        object.__setattr__(self, "legend", self.legend or self.title)

    @property
    def of_layer(self) -> bool:
        """Whether there is one of each layer."""
        return self.needs == "layers"


_GOLUB = "Golub, Van Loan, *Matrix Computations*"
_WEYL = "Golub, Van Loan, section 8.1 (Weyl)"
_CRISTIANINI = "Cristianini et al., NIPS 2001, equation 3"
_SONG = "Song et al., JMLR 2012, equation 5"
_CORTES = (
    "Cortes, Mohri, Rostamizadeh, JMLR 2012, definition 4; Kornblith et al., ICML 2019, equation 1"
)
_COHEN = "Cohen et al., ICLR 2021, appendix B; Lee et al., NeurIPS 2019"
_FORT = "Fort et al., NeurIPS 2020, section 3"
_BJORCK = "Bjorck, Golub, 1973"

CATALOGUE: tuple[Quantity, ...] = (
    Quantity(
        name="lambda_max",
        title="largest eigenvalue",
        needs="kernel",
        definition="lambda_1",
        range="0 and up",
        meaning="the fastest direction of training; with the loss it bounds the learning rate",
        source=_GOLUB,
        traps="scales with N, with O, with the parametrisation; often one eigenvalue far above all "
        "others, the mean of the outputs",
        chart="Eigenvalues",
        panel="Largest eigenvalue",
        legend="largest",
    ),
    Quantity(
        name="lambda_min",
        title="smallest eigenvalue",
        needs="kernel",
        definition="lambda_n, as computed",
        range="may be negative by rounding",
        meaning="the slowest direction",
        source=_GOLUB,
        traps="below `noise_floor` it is rounding noise",
        chart="Eigenvalues",
        panel="Smallest eigenvalue and noise floor",
        legend="smallest",
    ),
    Quantity(
        name="noise_floor",
        title="noise floor",
        needs="kernel",
        definition="n eps lambda_max, eps of the dtype in which the kernel was computed",
        range="0 and up",
        meaning="above it an eigenvalue is no noise: a guaranteed bound",
        source=_WEYL,
        traps="a kernel computed with TF32 products has the eps of these; about 1000 times above "
        "the noise that float32 kernels have, and above lambda_max where n eps is more than 1",
        chart="Eigenvalues",
        panel="Smallest eigenvalue and noise floor",
    ),
    Quantity(
        name="estimated_noise_floor",
        title="noise floor, estimated",
        needs="kernel",
        definition="largest of -lambda_n, norm (K - K^T) / sqrt n and 2 eps norm K / sqrt n",
        range="0 and up",
        meaning="the size that rounding has in this kernel; eigenvalues of five times that are "
        "good to 10 % in float32",
        source="Wigner, Annals of Mathematics, 1958",
        traps="an estimate, 0.5 to 15 times the noise of the kernels it is tested on; above "
        "`noise_floor` it says that the kernel was rounded to fewer bits than eps says",
        chart="Eigenvalues",
        panel="Smallest eigenvalue and noise floor",
    ),
    Quantity(
        name="condition_number",
        title="condition number",
        needs="kernel",
        definition="lambda_max / max(lambda_min, noise_floor)",
        range="1 and up; NaN for a zero kernel",
        meaning="spread of training speeds",
        source=_GOLUB,
        traps="depends on the convention by up to 100 times; a lower bound where the next line "
        "says so",
        chart="Condition number",
        legend="guaranteed",
    ),
    Quantity(
        name="condition_is_lower_bound",
        title="condition number is a lower bound",
        needs="kernel",
        definition="lambda_min <= noise_floor",
        range="0 or 1",
        meaning="the kernel may be singular, as far as its dtype can guarantee",
        traps="curves of a lower bound only show the dtype and n: they are 1 / (n eps)",
        panel="Condition number is a lower bound (1) or not (0)",
    ),
    Quantity(
        name="estimated_condition_number",
        title="condition number, estimated",
        needs="kernel",
        definition="lambda_max / max(lambda_min, estimated_noise_floor)",
        range="1 and up; NaN for a zero kernel",
        meaning="as above, as far as can be told from this kernel",
        source=_GOLUB,
        traps="not guaranteed; where `estimated_rank` is below n it only says how exact the kernel "
        "is",
        chart="Condition number",
        legend="estimated",
    ),
    Quantity(
        name="numerical_rank",
        title="numerical rank",
        needs="kernel",
        definition="number of eigenvalues above noise_floor",
        range="1 to n; 0 for a zero kernel",
        meaning="directions that can be learned at all: at least so many",
        traps="duplicated inputs lower it by O each; a layer of W < O units before the classifier "
        "to N O - (O - W) (N - W) or less (N - W - 1 if it has biases)",
        chart="Ranks",
        panel="Rank: numerical",
        legend="numerical",
    ),
    Quantity(
        name="estimated_rank",
        title="numerical rank, estimated",
        needs="kernel",
        definition="number of eigenvalues above estimated_noise_floor",
        range="1 to n; 0 for a zero kernel",
        meaning="as above, as far as can be told from this kernel",
        traps="eigenvalues near that floor are noise in part",
        chart="Ranks",
        panel="Rank: numerical",
        legend="numerical, estimated",
    ),
    Quantity(
        name="trace",
        title="trace",
        needs="kernel",
        definition="sum of lambda_i",
        range="0 and up",
        meaning="mean speed of training, times n",
        traps="scales with everything",
        chart="Trace",
    ),
    Quantity(
        name="effective_rank",
        title="effective rank",
        needs="kernel",
        definition="trace^2 / sum of lambda_i^2",
        range="1 to n; 0 for a zero kernel",
        meaning="how many eigenvalues count, by size (participation ratio)",
        traps="close to 1 as soon as one eigenvalue dominates",
        chart="Ranks",
        panel="Ranks: effective, entropy",
        legend="effective",
    ),
    Quantity(
        name="entropy_rank",
        title="entropy rank",
        needs="kernel",
        definition="exp(-sum p_i log p_i), p_i = lambda_i / trace, over those above the floor",
        range="1 to n; 0 for a zero kernel",
        meaning="as above, with more weight on the tail; never smaller than `effective_rank`",
        source="Roy, Vetterli, EUSIPCO 2007, definition 1",
        traps="defined there on singular values; here on eigenvalues",
        chart="Ranks",
        panel="Ranks: effective, entropy",
        legend="entropy",
    ),
    Quantity(
        name="power_law_exponent",
        title="exponent of the power law",
        needs="kernel",
        definition="alpha of lambda_i ~ i^-alpha, least squares of log lambda on log i",
        range="0 and up; NaN below three eigenvalues",
        meaning="how fast the spectrum decays: slow directions, learning curves",
        source="Bordelon, Canatar, Pehlevan, ICML 2020",
        traps="ranks have equal weight in i, so the tail has most points on the logarithmic axis; "
        "worthless without the next three",
        chart="Decay",
        panel="Decay of the spectrum: exponent, R²",
        legend="exponent",
    ),
    Quantity(
        name="power_law_r_squared",
        title="R² of the power law",
        needs="kernel",
        definition="R^2 of that fit",
        range="0 to 1",
        meaning="whether it is a power law",
        traps="0.95 is also reached by an exponential over one decade",
        chart="Decay",
        panel="Decay of the spectrum: exponent, R²",
        legend="R²",
    ),
    Quantity(
        name="power_law_first",
        title="first rank of the power law",
        needs="kernel",
        definition="first rank of the fit, from 1",
        range="1 to n",
        meaning="`fit_first=2` leaves out the mean of the outputs",
        traps="compare exponents over equal ranges",
    ),
    Quantity(
        name="power_law_last",
        title="last rank of the power law",
        needs="kernel",
        definition="last rank of the fit",
        range="0 to n",
        meaning="where the noise floor is reached",
        traps="changes with the dtype",
    ),
    Quantity(
        name="kernel_target_alignment",
        title="alignment with labels",
        needs="labels",
        definition="<K, Y Y^T> / (norm K norm Y Y^T); K of a full kernel its trace over outputs",
        range="0 to 1",
        meaning="how much the kernel is that of the labels",
        source=_CRISTIANINI,
        traps="the common mean of kernel and labels alone gives large values: classes as one-hot "
        "are never orthogonal to it",
        chart="Alignment with the labels",
        legend="raw",
    ),
    Quantity(
        name="centred_kernel_target_alignment",
        title="centred alignment with labels",
        needs="labels",
        definition="the same of H K H and H Y, H = I - 1 1^T / N",
        range="0 to 1; NaN for one class",
        meaning="the same without the mean; linear CKA of network and labels",
        source=_CORTES,
        traps="biased upwards for small N: 0.13 to 0.26 by chance at N = 64; NaN where the labels "
        "of the probe are all the same",
        chart="Alignment with the labels",
        legend="centred",
    ),
    Quantity(
        name="debiased_kernel_target_alignment",
        title="debiased alignment with labels",
        needs="labels",
        definition="the same with the unbiased estimates of HSIC: K and Y Y^T without their "
        "diagonals, centred so that labels in random order give 0 on average",
        range="-1 to 1; NaN for one class, and below 4 examples",
        meaning="how much more than chance the kernel is that of the labels",
        source=_SONG,
        traps="chance is 0 on average and not each time: its deviation is about 1 / N",
        chart="Alignment with the labels",
        legend="debiased",
    ),
    Quantity(
        name="top_space_alignment",
        title="share of the labels in the top space",
        needs="labels",
        definition="squared norm of U_k^T Y over that of Y, U_k the top k eigenvectors",
        range="0 to 1, k / n by chance; NaN as `rotation` by the noise floor",
        meaning="the part of the labels that training fits first",
        source="Arora et al., ICML 2019, section 4",
        traps="k is O for a full kernel, else 1 (`top_k=`): mostly the mean of the labels",
        chart="Alignment with the labels",
        legend="of the top space",
    ),
    Quantity(
        name="relative_change",
        title="relative change",
        needs="references",
        definition="norm (K_t - K_0) / norm K_0",
        range="0 and up",
        meaning="0 is the lazy regime",
        source="Chizat, Oyallon, Bach, NeurIPS 2019; Lee et al., NeurIPS 2019",
        traps="grows by scale alone",
        chart="Change since the first kernel",
        panel="Relative change since the first kernel",
    ),
    Quantity(
        name="kernel_distance",
        title="kernel distance",
        needs="references",
        definition="1 - cos(K_t, K_0), computed as the squared norm of u - v over 2, u and v the "
        "kernels over their norms",
        range="0 to 1",
        meaning="change of direction, whatever the scale",
        source=_FORT,
        traps="of second order: a relative change of 1e-3 is a distance of 5e-7; below eps^2 it is "
        "rounding",
        chart="Change since the first kernel",
        panel="Kernel distance to the first kernel",
    ),
    Quantity(
        name="kernel_velocity",
        title="kernel velocity",
        needs="references",
        definition="kernel distance to the previous kernel, per step; NaN at the first",
        range="0 and up",
        unit="1 / step",
        meaning="how fast the kernel turns",
        source=_FORT,
        traps="shrinks with the interval: compare equal intervals",
        chart="Velocity",
        panel="Velocity, per step",
        legend="velocity",
    ),
    Quantity(
        name="rotation",
        title="rotation of the top space",
        needs="references",
        definition="largest principal angle between the spans of the top k eigenvectors, now and "
        "at first",
        range="0 to pi/2",
        unit="radians",
        meaning="whether the directions that are learned first turn",
        source=_BJORCK,
        traps="k is O for a full kernel, else 1 (`top_k=`); NaN where lambda_k and lambda_(k+1) "
        "differ by the noise floor or less, or by less than the change of the kernel, both over "
        "their norms",
        chart="Rotation of the top space",
        panel="Rotation of the top space, radians",
        legend="since the first",
    ),
    Quantity(
        name="rotation_since_previous",
        title="rotation of the top space since the previous kernel",
        needs="references",
        definition="the same, now and at the previous kernel",
        range="0 to pi/2",
        unit="radians",
        meaning="as above",
        source=_BJORCK,
        traps="grows with the interval",
        chart="Rotation of the top space",
        panel="Rotation of the top space, radians",
        legend="since the previous",
    ),
    Quantity(
        name="critical_learning_rate",
        title="critical learning rate",
        needs="training",
        definition="of descent on the whole batch: 2 / lambda_max(G); 2 (1 + beta) / "
        "lambda_max(G) with heavy ball, (2 + 2 beta) / ((1 + 2 beta) lambda_max(G)) with Nesterov "
        "momentum; G the Gauss-Newton Hessian of the loss as it is normalised; the cross-entropy "
        "of one logit is that of its sigmoid",
        range="above 0, infinite for G = 0",
        meaning="above it, descent is locally unstable",
        source=_COHEN,
        traps="of the probe, not of the training batch, and of descent on a whole batch; with the "
        "cross-entropy descent above it spikes and may converge all the same, and below it may "
        "jump far from logits that are wrong with certainty; for a traced kernel of several "
        "outputs it is not computed, as it does not follow; Adam has another one",
        chart="Critical learning rate",
        legend="of the whole batch",
    ),
    Quantity(
        name="guaranteed_learning_rate",
        title="guaranteed learning rate",
        needs="training",
        definition="of the cross-entropy: 2 / L, 2 (1 - beta) / L with heavy ball, 1 / L with "
        "Nesterov momentum; L = lambda_max(G) with (I - 1 1^T / V) / 2 in place of each S (1/4 for "
        "a sigmoid)",
        range="above 0, infinite for a kernel of zeros",
        meaning="below it, descent on the linearised network converges from any logits, on the "
        "whole batch",
        source="Bohning, 1992; Ghadimi et al., ECC 2015",
        traps="a bound: training may be fast and stable far above it",
        chart="Critical learning rate",
        legend="guaranteed",
    ),
    Quantity(
        name="minibatch_critical_learning_rate",
        title="critical learning rate of SGD",
        needs="training",
        definition="the largest eta with N / B max over i of lambda_max of block (i, i) of U diag("
        "a(eta g)) U^T at most 1; U, g of the probe's curvature kernel, a(x) = x (1 + beta) / "
        "((1 - beta) (2 (1 + beta) - x)) with heavy ball",
        range="above 0, at most that of the whole batch",
        meaning="up to it, SGD with batches of B examples is stable in the mean square",
        source="Agarwala, Pennington, 2024; Velikanov et al., ICLR 2023; Jain et al., JMLR 2018",
        traps="a lower bound of the edge, which was 1 to 6 times higher in simulations; the mean "
        "square is that over all orders of the data, and one run may last longer",
        chart="Critical learning rate",
        legend="of minibatches",
    ),
    Quantity(
        name="full_batch_learning_rate_ratio",
        title="rate over critical, whole batch",
        needs="training",
        definition="rate / `critical_learning_rate`",
        range="0 and up",
        meaning="1 is the edge of stability of descent on the whole batch",
        source=_COHEN,
        traps="SGD is unstable far below 1: see the next; needs the schedule's rate of the step; "
        "the real network may stay above 1 for long, at the edge or in a catapult",
        chart="Learning rate over the critical one",
        legend="whole batch",
    ),
    Quantity(
        name="minibatch_learning_rate_ratio",
        title="rate over critical, SGD",
        needs="training",
        definition="rate / `minibatch_critical_learning_rate`",
        range="0 and up",
        meaning="up to 1 SGD is stable in the mean square",
        source="Agarwala, Pennington, 2024; Velikanov et al., ICLR 2023; Jain et al., JMLR 2018",
        traps="the edge is at 1 to 6, as the rate is a lower bound",
        chart="Learning rate over the critical one",
        legend="minibatches",
    ),
    Quantity(
        name="trace_share",
        title="share of the trace",
        needs="layers",
        definition="trace of the layer's part over the trace",
        range="0 to 1, sums to 1",
        meaning="which layer moves the outputs",
        traps="depends on the parametrisation: a layer's scale and its rate trade off",
        chart="Layers",
        panel="Layers: share of the trace",
    ),
    Quantity(
        name="lambda_max",
        title="largest eigenvalue",
        needs="layers",
        definition="largest eigenvalue of the part",
        range="0 and up",
        meaning="its fastest direction",
        traps="they do not add up to that of the whole",
        chart="Layers",
        panel="Layers: largest eigenvalue",
    ),
    Quantity(
        name="alignment",
        title="alignment",
        needs="layers",
        definition="`kernel_target_alignment` of the part",
        range="0 to 1",
        meaning="which layer knows the labels",
        source=_CRISTIANINI,
        traps="as of the whole",
    ),
    Quantity(
        name="centred_alignment",
        title="centred alignment",
        needs="layers",
        definition="the same, centred",
        range="0 to 1",
        meaning="as above",
        source=_CORTES,
        traps="as of the whole",
        legend="centred",
    ),
    Quantity(
        name="debiased_alignment",
        title="debiased alignment",
        needs="layers",
        definition="the same, debiased",
        range="-1 to 1",
        meaning="as above",
        source=_SONG,
        traps="as of the whole",
        legend="debiased",
    ),
    Quantity(
        name="time_share",
        title="share of the run's time",
        needs="hook",
        definition="time of all measurements so far, failed ones too, on the device and on the "
        "host, over the time since the first one began; an upper bound of what the run is slowed "
        "down by, but for `trace_seconds` and `compile_seconds`. `max_overhead=` of `NTKHook` "
        "bounds it",
        range="0 to 1",
        chart="Cost, relative",
        panel="Cost: share of the run's time",
        legend="share",
    ),
    Quantity(
        name="seconds",
        title="seconds",
        needs="hook",
        definition="wall-clock time of the kernel and its diagnostics, without compilation and "
        "without the training steps that were still under way",
        range="0 and up",
        unit="seconds",
        chart="Cost",
        panel="Cost: seconds",
    ),
    Quantity(
        name="kernel_seconds",
        title="seconds of the kernel",
        needs="hook",
        definition="of these, from when the parameters were there until the kernel was on the host",
        range="0 and up",
        unit="seconds",
    ),
    Quantity(
        name="blocked_seconds",
        title="seconds that the loop was held up",
        needs="hook",
        definition="how long the call kept the loop: to dispatch, and to wait for the measurement "
        "before if that was not done; without `trace_seconds`",
        range="0 and up",
        unit="seconds",
    ),
    Quantity(
        name="trace_seconds",
        title="seconds of tracing",
        needs="hook",
        definition="how long the loop has been kept so far, in all, while programs of the kernel "
        "were traced: once, and again where shapes change or memory runs out",
        range="0 and up",
        unit="seconds",
    ),
    Quantity(
        name="compile_seconds",
        title="seconds of compilation",
        needs="hook",
        definition="how long such programs have been compiled so far, in all, or loaded from disk, "
        "on a thread beside the loop",
        range="0 and up",
        unit="seconds",
    ),
    Quantity(
        name="deviation",
        title="deviation from plain derivatives",
        needs="hook",
        definition="of the certificate: by how much the kernel differs from plain derivatives of "
        "f, as a part of their product; of the first measurement, the second, fourth, eighth, ... "
        "(see below)",
        range="0 and up",
    ),
    Quantity(
        name="failures",
        title="failures",
        needs="hook",
        definition="measurements and writes that failed and were survived, and halvings of the "
        "memory",
        range="0 and up",
        panel="Failures",
    ),
)


@functools.cache
def quantity(name: str, *, layer: bool = False) -> Quantity:
    """The entry of a number, by its name.

    Args:
      name: of the number.
      layer: whether that of a layer is meant, as both have a `lambda_max`.

    Raises:
      KeyError: there is none.
    """
    for entry in CATALOGUE:
        if (entry.name, entry.of_layer) == (name, layer):
            return entry
    raise KeyError(name)


def in_chart(chart: str) -> Iterator[Quantity]:
    """The numbers that are drawn in a chart of the report, in the order of the catalogue."""
    return (entry for entry in CATALOGUE if entry.chart == chart)
