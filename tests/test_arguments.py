"""Wrong arguments of the public functions: the error says which, what came and what to do.

A table: each row is a call and the words that its error must hold. The calls are those that people
make by mistake: a module for a function, a seed for a key, labels in the place of the convention.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ntk_train import (
    CrossEntropy,
    KernelOperator,
    NTKError,
    ReferenceKernels,
    SquaredLoss,
    Training,
    diagnose,
    empirical_ntk_fn,
    explain,
    kernel_spectrum,
    linen_fn,
    models,
    nnx_fn,
    ntk,
)
from ntk_train.monitor.schedule import Schedule
from ntk_train.spectrum import (
    LinearisedTraining,
    MatrixOperator,
    check_comparable,
    critical_learning_rate,
    entropy_rank,
    gradient_flow,
    hessian_weighted_kernel,
    kernel_ridge,
    kernel_target_alignment,
    kernel_velocity,
    layer_diagnostics,
    loss_departure,
    operator_trace,
    power_law,
    principal_angles,
    sharpness,
    spectral_density,
    stable_rate,
    te_nas_condition_number,
    top_eigenvalues,
    top_space_alignment,
)

PARAMS = {"w": jnp.linspace(-1, 1, 6).reshape(3, 2), "b": jnp.ones(2)}
X = jnp.arange(12.0).reshape(4, 3) / 10
LABELS = np.array([0, 1, 1, 0])
NAN, INF = float("nan"), float("inf")


def f(params, x):
    return jnp.tanh(x @ params["w"] + params["b"])


JACOBIAN = np.random.default_rng(0).normal(size=(4, 2, 9))
PARTS = {
    name: np.einsum("now,mpw->nomp", part, part)
    for name, part in (("w", JACOBIAN[..., :6]), ("b", JACOBIAN[..., 6:]))
}
KERNEL = PARTS["w"] + PARTS["b"]
TRACED = np.einsum("nomo->nm", KERNEL)
ONE = KERNEL[:, :1, :, :1]
LOGITS = JACOBIAN[..., 0]


class Net(nn.Module):
    """With running statistics, and dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(3)(x))
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


class Dropping(nn.Module):
    """With dropout alone."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dropout(0.5, deterministic=not train)(nn.Dense(2)(x))


NET, PLAIN, DROPPING = Net(), nn.Dense(2), Dropping()
VARIABLES = jax.tree.map(jnp.ones_like, NET.init(jax.random.key(0), X))
OF_PLAIN = {"params": {"kernel": PARAMS["w"], "bias": PARAMS["b"]}}


class TrainState:
    """As Flax has it: a pytree with the parameters in it."""

    def __init__(self, params):
        self.params, self.apply_fn = params, NET.apply


jax.tree_util.register_pytree_node(
    TrainState, lambda state: ([state.params], None), lambda _, leaves: TrainState(leaves[0])
)


def call(**changes):
    return lambda: ntk(**{"f": f, "params": PARAMS, "x1": X} | changes)


OF_NTK = [
    (call(f=None), "f is None; expected a function f(params, x)"),
    (call(f=PARAMS, params=f), "f is an object of type dict; expected a function"),
    (call(f=PLAIN, params=OF_PLAIN["params"]), "f is the Flax module Dense: ntk_train.linen_fn("),
    (call(f=Net, params=VARIABLES["params"]), "f is the class Net"),
    (call(f=PLAIN.apply, params=OF_PLAIN["params"]), "the method apply of Dense: linen_fn(model)"),
    (call(f=nnx.Linear(3, 2, rngs=nnx.Rngs(0))), "f is the NNX module Linear: nnx_fn(model)"),
    (call(f=lambda p: p["w"]), "f takes (p), and is called as f(params, x)"),
    (call(f=lambda p, x, s: x @ p["w"]), "f takes (p, x, s): model_state= is a third argument"),
    (call(model_state=X), "f takes (params, x), and is called as f(params, x, model_state)"),
    (call(f=lambda x, p: x @ p["w"]), "params and x1 are swapped"),
    (call(f=lambda p, x: None), "f returned no array"),
    (call(f=lambda p, x: "logits"), "f returned 'logits'; expected arrays"),
    (call(f=lambda p, x: (f(p, x), {"n": 3.0})), "leaves of shapes [(1, 2), ()]: axis 0"),
    (call(f=lambda p, x: f(p, x).sum()), "each needs the examples on axis 0: return it [None]"),
    (call(f=lambda p, x: f(p, x).T), "f returned 2 rows for one example of x1: batched=False"),
    (call(params=None), "params has no leaf to differentiate: variables['params']"),
    (call(params=TrainState(PARAMS)), "evaluated with params.params: pass that as params"),
    (
        call(f=linen_fn(NET), params=TrainState(VARIABLES["params"])),
        "params is a TrainState: pass state.params, and its statistics as model_state=",
    ),
    (call(f=linen_fn(NET), params=VARIABLES), "['batch_stats']: variables['params']: model_state="),
    (call(f=linen_fn(PLAIN), params=OF_PLAIN), "evaluated with params['params']: pass that"),
    (
        call(f=lambda v, x: PLAIN.apply(v, x), params=OF_PLAIN["params"]),
        "f takes the variables of a Flax model: f({'params': params}, x)",
    ),
    (
        call(f=linen_fn(NET), params=VARIABLES["params"]),
        "reads another collection: model_state={'batch_stats': variables['batch_stats']}",
    ),
    (
        call(f=linen_fn(DROPPING, train=True), params={"Dense_0": OF_PLAIN["params"]}),
        "f draws random numbers, as dropout does in train mode: deterministic=True",
    ),
    (
        call(
            f=lambda p, x: NET.apply(VARIABLES | {"params": p}, x, train=True),
            params=VARIABLES["params"],
        ),
        "f updates its statistics, as BatchNorm does in train mode: mutable=['batch_stats']",
    ),
    (call(params="w"), "params has no leaf to differentiate: (str) none is floating point"),
    (call(params={"w": PARAMS["w"] * 1j}), "params['w'] is complex128: as two leaves"),
    (call(params=X, x1=PARAMS), "f(x1, params) can be evaluated: they are swapped"),
    (call(f=lambda w, x: x @ w, params=X, x1=PARAMS["w"]), "params and x1 are swapped"),
    (call(x1=None), "x1 is None; expected inputs, with the examples on axis 0"),
    (call(x1="images"), "x1 is 'images'; expected arrays"),
    (call(x1=1.0), "x1 is 1.0; expected arrays, with the examples on axis 0"),
    (call(x1=[[1.0, 2.0, 3.0]] * 4), "x1[0][0] is 1.0; expected arrays"),
    (call(x1=np.array([["a"]])), "x1 is <U1[1, 1]; expected arrays"),
    (call(x1=X[0]), "x1 is one example, without an axis of examples: leaf[None]"),
    (call(x1=X.T), "examples on axis 1 of x1: jnp.moveaxis(x1, 1, 0)"),
    (call(x1=(X, LABELS)), "f can be evaluated with x1[0]: pass that as x1"),
    (call(x1={"image": X, "label": LABELS}), "f can be evaluated with x1['image']"),
    (call(x1={"a": X, "b": X[:2]}), "x1 has leaves of shapes [(4, 3), (2, 3)]: batched=False"),
    (call(x2={"a": X}), "f(params, x2) raised TypeError: f can be evaluated with x2['a']"),
    (call(x2=X[0]), "x2 is one example, without an axis of examples"),
    (call(x2=True), "x2 is True; expected arrays"),
    (call(outputs=None), "outputs=None; expected a mode or integers, one logit for each example"),
    (call(outputs="Full"), "outputs='Full' is none of ['full', 'trace', 'diagonal', 'sum']"),
    (call(outputs=["full"]), "outputs is ['full']; expected a mode or integers"),
    (call(outputs=[[0], [1, 0]]), "outputs is [[0], [1, 0]]; expected a mode or integers"),
    (call(outputs=True), "outputs for x1 is bool: chosen logits must be integers"),
    (call(outputs=np.eye(2, dtype=int)[LABELS]), "outputs for x1 has shape (4, 2); expected (4,)"),
    (call(batched=None), "batched=None; expected True for independent examples, or False"),
    (call(batched="no"), "batched='no'; expected True"),
    (call(memory_budget="4GB"), "memory_budget='4GB'; expected a number of bytes, as 4e9"),
    (call(memory_budget=0), "memory_budget=0; expected a number of bytes"),
    (call(memory_budget=NAN), "memory_budget=nan; expected a number of bytes"),
    (call(memory_budget=True), "memory_budget=True; expected a number of bytes"),
    (call(param_filter="w"), "param_filter is 'w'; expected a function from a path"),
    (call(param_filter=lambda path: None), "param_filter refused them all: such as 'b'"),
    (call(implementation=None), "implementation=None is none of ['auto', 'structured'"),
    (
        call(precision=jax.lax.Precision.HIGHEST),
        "precision=Precision.HIGHEST is no name",
    ),
    (call(per_layer="w"), "per_layer='w'; expected True, False, or a function from a path"),
    (call(per_layer=lambda path: 1), "per_layer(path) is 1; expected the name of a group"),
    (call(strict="yes"), "strict='yes'; expected True or False"),
    (lambda: empirical_ntk_fn(None), "f is None; expected a function f(params, x, **kwargs)"),
    (
        lambda: empirical_ntk_fn(f, implementation="auto"),
        "implementation='auto'; expected one of 0 (AUTO), 1 (JACOBIAN_CONTRACTION)",
    ),
    (lambda: explain(f, X, PARAMS), "f(x1, params) can be evaluated: they are swapped"),
    (lambda: explain(f, PARAMS, X, memory_budget="1e9"), "memory_budget='1e9'; expected"),
    (lambda: explain(f, PARAMS, X, param_filter="w"), "param_filter is 'w'; expected a function"),
]

OPERATOR = KernelOperator(f, PARAMS, X)
V = jnp.ones((4, 2))


def product(**changes):
    return lambda: KernelOperator(**{"f": f, "params": PARAMS, "x": X} | changes).matvec(V)


OF_OPERATOR = [
    (product(f=PARAMS), "f is an object of type dict; expected a function f(params, x)"),
    (product(params=X, x=PARAMS), "f(x, params) can be evaluated: they are swapped"),
    (product(params=PARAMS | {"act": jnp.sin}), "params['act'] is an object: Close f over"),
    (product(x=None), "x is None; expected inputs"),
    (product(x="x"), "x is 'x'; a KernelOperator is a pytree of arrays"),
    (product(outputs="trace"), "outputs='trace'; a KernelOperator has 'full' and 'sum': chosen="),
    (product(outputs=LABELS), "outputs=int64[4]; a KernelOperator has 'full' and 'sum': chosen="),
    (product(chunk=0), "chunk=0; expected 1 or more examples at a time, or None for all"),
    (product(chunk="2"), "chunk='2'; expected 1 or more examples at a time"),
    (product(chunk=True), "chunk=True; expected 1 or more examples at a time"),
    (product(batched="no"), "batched='no'; expected True for independent examples"),
    (product(param_filter="w"), "param_filter is 'w'; expected a function"),
    (lambda: OPERATOR.matvec(V.T), "v has shape (2, 4); this operator takes (4, 2)"),
    (lambda: OPERATOR.matvec(None), "v is None; expected an array of numbers"),
    (lambda: OPERATOR.matvec("v"), "v is 'v'; expected an array of numbers"),
    (lambda: OPERATOR.matvec(jax.random.split(jax.random.key(0), 4)), "v is key<fry>[4]; expected"),
    (lambda: OPERATOR.cross(V, None), "x is None; expected M inputs: matvec(v)"),
    (lambda: OPERATOR.cross(V, X[0]), "x is one example, without an axis of examples"),
    (lambda: top_eigenvalues(TRACED), "operator is float64[4, 4]: MatrixOperator(matrix)"),
    (lambda: top_eigenvalues(MatrixOperator(KERNEL)), "matrix is float64[4, 2, 4, 2]: reshape"),
    (lambda: top_eigenvalues(MatrixOperator([[1.0]])), "matrix is [[1.0]]; expected an array"),
    (
        lambda: top_eigenvalues(MatrixOperator(jnp.ones((3, 2)))),
        "matrix is float64[3, 2]",
    ),
    (lambda: top_eigenvalues(MatrixOperator(jnp.eye(3) * 1j)), "complex128 vectors; expected real"),
    (
        lambda: top_eigenvalues(MatrixOperator(jnp.eye(3, dtype=int))),
        "int64 vectors",
    ),
    (
        lambda: top_eigenvalues(MatrixOperator(jnp.triu(jnp.ones((3, 3))))),
        "matrix is not symmetric",
    ),
    (lambda: top_eigenvalues(MatrixOperator(jnp.eye(3), NAN)), "ridge=nan; expected a number"),
    (lambda: top_eigenvalues(OPERATOR, 1.5), "k=1.5; expected at least one eigenvalue"),
    (lambda: top_eigenvalues(OPERATOR, steps="9"), "steps='9'; expected at least one step"),
    (lambda: top_eigenvalues(OPERATOR, key=0), "key=0; expected jax.random.key(seed)"),
    (lambda: spectral_density(OPERATOR, steps=1.5), "steps=1.5; expected how many products"),
    (lambda: spectral_density(OPERATOR, probes=1), "probes=1; expected 2 probes or more"),
    (lambda: operator_trace(OPERATOR, probes="3"), "probes='3'; expected 2 or more"),
]

DENSE = MatrixOperator(jnp.asarray(TRACED))
R = np.ones(4)
FLOW = LinearisedTraining(KERNEL, LOGITS, LOGITS + 1, SquaredLoss())
DESCENT = LinearisedTraining(KERNEL, LOGITS, LOGITS + 1, SquaredLoss(), 0.01)

OF_TRAINING = [
    (lambda: kernel_ridge(DENSE, R * 1j), "residual is complex128[4]; expected finite numbers"),
    (lambda: kernel_ridge(DENSE, R * NAN), "residual has 4 NaN or infinite entries of 4"),
    (lambda: kernel_ridge(DENSE, "r"), "residual is 'r'; expected finite numbers"),
    (lambda: kernel_ridge(DENSE, R, ridge=INF), "ridge=inf; expected a number to add: 0 or more"),
    (lambda: kernel_ridge(DENSE, R, ridge="1"), "ridge='1'; expected a number to add"),
    (lambda: kernel_ridge(DENSE, R, rtol=NAN), "rtol=nan; expected a relative residual"),
    (lambda: kernel_ridge(DENSE, R, rtol=-1), "rtol=-1; expected a relative residual"),
    (lambda: kernel_ridge(DENSE, R, max_steps=0), "max_steps=0; expected how many steps at most"),
    (lambda: gradient_flow(DENSE, R, CrossEntropy(), 1.0), "loss is an object: SquaredLoss()"),
    (
        lambda: gradient_flow(DENSE, R, SquaredLoss(), -1.0),
        "time=-1.0; expected learning rate times",
    ),
    (lambda: gradient_flow(DENSE, R, SquaredLoss(), NAN), "time=nan; expected learning rate times"),
    (
        lambda: gradient_flow(DENSE, R, SquaredLoss(), 1.5, learning_rate=0.1),
        "time=1.5; expected a whole number of steps",
    ),
    (
        lambda: gradient_flow(DENSE, R, SquaredLoss(), 1, learning_rate=-0.1),
        "learning_rate=-0.1; expected 0 or more, or None for gradient flow",
    ),
    (lambda: gradient_flow(DENSE, R, SquaredLoss(), 1.0, steps=0), "steps=0; expected how many"),
    (lambda: FLOW.loss(-1.0), "time=-1.0; expected learning rate times number of steps"),
    (lambda: DESCENT.loss(0.5), "time=0.5; expected a whole number of steps"),
    (lambda: FLOW.train_outputs("1"), "time='1'; expected"),
    (
        lambda: FLOW.test_outputs(1.0, KERNEL[:, :, :3], LOGITS[:3]),
        "cross has shape (4, 2, 3, 2); expected [M, O, N, O] = [3, 2, 4, 2]",
    ),
    (lambda: FLOW.test_outputs(1.0, KERNEL, LOGITS[:, 0]), "outputs has shape (4,): [M, 2]"),
    (lambda: FLOW.test_outputs(1.0, KERNEL * NAN, LOGITS), "cross has 64 NaN or infinite entries"),
    (
        lambda: LinearisedTraining(KERNEL, LOGITS * 1j, LOGITS, SquaredLoss()),
        "outputs is complex128[4, 2]; expected finite numbers [N, O]",
    ),
    (
        lambda: LinearisedTraining(KERNEL, LOGITS, LOGITS, SquaredLoss(), NAN),
        "learning_rate=nan; expected 0 or more",
    ),
    (lambda: loss_departure([1j], [1.0]), "actual is complex128[1]; expected losses [T]"),
    (lambda: SquaredLoss(half="no"), "half='no'; expected True for a factor 1/2"),
    (lambda: SquaredLoss(mean="mean"), "mean='mean' is none of 'none', 'examples', 'entries'"),
    (lambda: Training("cross_entropy"), "loss is 'cross_entropy': ntk_train.CrossEntropy()"),
    (lambda: Training(CrossEntropy), "loss is the class CrossEntropy: CrossEntropy()"),
    (lambda: Training(SquaredLoss(), learning_rate=-0.1), "learning_rate=-0.1; expected the rate"),
    (lambda: Training(SquaredLoss(), learning_rate=f), "learning_rate=an object: schedule(step)"),
    (lambda: Training(SquaredLoss(), momentum="0.9"), "momentum='0.9'; expected 0 <= momentum < 1"),
    (lambda: Training(SquaredLoss(), momentum=1), "momentum=1; expected 0 <= momentum < 1"),
    (lambda: Training(SquaredLoss(), nesterov="no"), "nesterov='no'; expected True or False"),
    (lambda: critical_learning_rate(KERNEL, None), "loss is None; expected: CrossEntropy()"),
    (lambda: sharpness(KERNEL, CrossEntropy()), "logits is missing: Pass [N, O]"),
    (lambda: hessian_weighted_kernel(KERNEL, LOGITS * 1j), "logits is complex128[4, 2]; expected"),
    (lambda: hessian_weighted_kernel(KERNEL, LOGITS[:2]), "logits has shape (2, 2): [4, 2]"),
    (lambda: hessian_weighted_kernel(TRACED, LOGITS), "a kernel [N, N] counts as one of one logit"),
    (lambda: stable_rate("1"), "sharpness='1'; expected an eigenvalue"),
]

SPECTRUM = kernel_spectrum(KERNEL)
REFERENCES = ReferenceKernels.start(KERNEL, 0)


def found(*positional, **changes):
    return lambda: diagnose(KERNEL, *positional, **changes)


def te_nas(**changes):
    given = {"f": f, "init": lambda key: PARAMS, "x": X, "param_filter": None}
    return lambda: te_nas_condition_number(**given | changes)


OF_SPECTRUM = [
    (
        lambda: kernel_spectrum(None),
        "kernel is None; expected the array",
    ),
    (lambda: kernel_spectrum(PARTS), "kernel is an object of type dict; expected the array"),
    (lambda: kernel_spectrum([["a"]]), "kernel is [['a']]; expected the array"),
    (lambda: kernel_spectrum(np.zeros((2, 2), "M8[s]")), "kernel is datetime64[s][2, 2]; expected"),
    (lambda: kernel_spectrum(OPERATOR), "kernel is an object of type KernelOperator; expected"),
    (lambda: kernel_spectrum(KERNEL, eps=-1), "eps=-1; expected a relative rounding error"),
    (lambda: kernel_spectrum(KERNEL, eps=NAN), "eps=nan; expected a relative rounding error"),
    (lambda: kernel_spectrum(KERNEL, eps=2.0), "eps=2.0; expected: from 0 to below 1"),
    (lambda: kernel_spectrum(KERNEL, eps="1e-3"), "eps='1e-3'; expected a relative rounding error"),
    (found(eps=-1), "eps=-1; expected a relative rounding error"),
    (found(LABELS), "convention is int64[4]: labels are the argument labels="),
    (found([0, 1, 1, 0]), "convention is [0, 1, 1, 0]: labels are the argument labels="),
    (found(labels="abcd"), "labels is 'abcd'; expected integers [N] or [N, 1], or real"),
    (found(labels=list("abba")), "labels is ['a', 'b', 'b', 'a']; expected integers [N]"),
    (found(labels=LABELS[:2]), "labels is int64[2]; the kernel is of 4 examples"),
    (found(training=CrossEntropy()), "training is an object of type CrossEntropy: Training(loss"),
    (found(logits=LOGITS * NAN, training=Training(CrossEntropy())), "logits has 8 NaN: [4, 2]"),
    (found(layers=[KERNEL]), "layers is an object of type list: per_layer=True"),
    (found(layers={}), "layers has shapes {}; expected one or more kernels"),
    (found(layers={"a": np.eye(3)}), "layers: shape (3, 3); expected that of the kernel, (4, 2"),
    (found(layers={"a": TRACED}), "layers: shape (4, 4); expected: with the same outputs"),
    (found(layers={"w": PARTS["w"]}), "layers does not add up to the kernel: per_layer=True"),
    (found(layers={k: 2 * v for k, v in PARTS.items()}), "layers does not add up to the kernel"),
    (found(layers={"a": {"b": KERNEL}}), "layers['a'] is an object of type dict; expected the"),
    (found(layers={"a": KERNEL * NAN}), "layers['a'] has 64 NaN or infinite entries"),
    (found(references=KERNEL, step=1), "references is float64[4, 2, 4, 2]: ReferenceKernels"),
    (found(references=REFERENCES, step="1"), "step='1'; expected the step of the kernel"),
    (found(references=REFERENCES, step=NAN), "step=nan; expected the step of the kernel"),
    (found(top_k=1.5), "top_k=1.5; expected how many eigenvectors"),
    (found(fit_first="1"), "fit_first='1'; expected the first rank"),
    (lambda: layer_diagnostics([KERNEL]), "layers is an object of type list; expected the dict"),
    (lambda: power_law(KERNEL), "spectrum is float64[4, 2, 4, 2]: kernel_spectrum(kernel)"),
    (lambda: entropy_rank(KERNEL), "spectrum is float64[4, 2, 4, 2]: kernel_spectrum(kernel)"),
    (lambda: power_law(SPECTRUM, 1.5), "first=1.5; expected ranks 1 <= first <= last"),
    (lambda: top_space_alignment(KERNEL, LABELS, "1"), "k='1'; expected 1 to 8"),
    (lambda: principal_angles(KERNEL, KERNEL, 9), "k=9; expected 1 to 8"),
    (lambda: kernel_target_alignment(LABELS, KERNEL), "kernel has shape (4,); expected [N, N]"),
    (lambda: kernel_velocity(KERNEL, KERNEL, INF), "steps=inf; expected the positive number"),
    (
        lambda: ReferenceKernels.start(np.ones((3, 2)), 0),
        "kernel has shape (3, 2); expected",
    ),
    (lambda: ReferenceKernels.start(KERNEL, 1.5), "step=1.5; expected the step of the kernel"),
    (lambda: ReferenceKernels.start(KERNEL, 0, LABELS), "convention is int64[4]: labels="),
    (lambda: REFERENCES.advance(TRACED, 1), "kernel has shape (4, 4); expected (4, 2, 4, 2)"),
    (lambda: ReferenceKernels.from_dict(KERNEL), "arrays is float64[4, 2, 4, 2]: to_dict"),
    (lambda: check_comparable("full", "full"), "convention is 'full'; expected: Convention"),
    (te_nas(init=None, params=PARAMS), "params is an object of type dict: a list of params"),
    (te_nas(init=PARAMS), "init is an object of type dict; expected a function from a random key"),
    (te_nas(seeds=3), "seeds is 3; expected one whole number or more"),
    (te_nas(seeds=["a"]), "seeds='a'; expected one whole number or more"),
    (te_nas(param_filter=["w"]), "param_filter is ['w']; expected a function from a path"),
    (te_nas(f=None), "f is None; expected a function f(params, x)"),
]

DENSITY = spectral_density(DENSE, probes=2, steps=3)


def model(**changes):
    return lambda: models.create_model("fcn", **changes)


OF_THE_REST = [
    (lambda: DENSITY.density(np.zeros(1), 0), "width=0; expected a positive width"),
    (lambda: DENSITY.density(np.array([NAN]), 1), "grid has 1 NaN or infinite entries"),
    (lambda: DENSITY.count_above(NAN), "threshold=nan; expected an eigenvalue"),
    (lambda: DENSITY.log_determinant(INF), "ridge=inf; expected a number to add: 0 or more"),
    (lambda: Schedule(every_steps="10"), "every_steps='10'; expected a positive number of steps"),
    (lambda: Schedule(every_steps=1.5), "every_steps=1.5; expected a positive number of steps"),
    (lambda: Schedule(every_steps=0), "every_steps=0; expected: None to switch this rule off"),
    (lambda: Schedule(every_steps=True), "every_steps=True; expected a positive number of steps"),
    (lambda: Schedule(every_steps=f), "every_steps=an object: expected a positive number"),
    (lambda: Schedule(every_secs="3"), "every_secs='3'; expected a positive number of seconds"),
    (lambda: Schedule(every_secs=NAN), "every_secs=nan; expected a positive number of seconds"),
    (lambda: Schedule(on_steps=10), "on_steps is 10; expected the steps at which to run"),
    (lambda: Schedule(on_steps="10"), "on_steps='1'; expected the steps at which to run"),
    (lambda: Schedule(on_steps=[1.5]), "on_steps=1.5; expected the steps at which to run"),
    (lambda: Schedule(every_steps=1, last_step="9"), "last_step='9'; expected a step, or None"),
    (lambda: Schedule(), "would never run: every_steps, on_steps or every_secs"),
    (model(num_outputs=0), "num_outputs=0; expected a whole number, 1 or more"),
    (model(num_outputs=None), "num_outputs=None; expected a whole number"),
    (model(num_outputs="10"), "num_outputs='10'; expected a whole number"),
    (model(num_outputs=True), "num_outputs=True; expected a whole number"),
    (model(widths="64"), "widths='64'; expected a whole number"),
    (model(widths=(8, -3)), "widths=-3; expected a whole number, 1 or more"),
    (model(depth=1.5), "depth=1.5; expected a whole number, 0 or more"),
    (lambda: models.create_model("vit-s/16", patch_size=0), "patch_size=0; expected: 1 or more"),
    (lambda: linen_fn(Net), "model is the class Net; expected a Flax Linen module"),
    (lambda: linen_fn(VARIABLES), "model is an object of type dict; expected a Flax Linen module"),
    (
        lambda: linen_fn(nnx.Linear(3, 2, rngs=nnx.Rngs(0))),
        "Flax Linen: nnx_fn makes one",
    ),
    (lambda: nnx_fn(PLAIN), "expected a Flax NNX module: linen_fn makes one"),
    (lambda: nnx_fn(None), "model is None; expected a Flax NNX module"),
]

TABLES = {
    "ntk": OF_NTK,
    "operator": OF_OPERATOR,
    "training": OF_TRAINING,
    "spectrum": OF_SPECTRUM,
    "rest": OF_THE_REST,
}
ROWS = [
    pytest.param(wrong, words, id=f"{table}-{words[:40]}")
    for table, rows in TABLES.items()
    for wrong, words in rows
]


pytestmark = pytest.mark.usefixtures("without_type_checks")


@pytest.mark.parametrize(("wrong", "words"), ROWS)
def test_wrong_arguments_are_named_with_a_remedy(wrong, words):
    with pytest.raises(NTKError) as caught:
        wrong()
    text = str(caught.value)
    for part in words.split(": "):
        assert part in text, f"{part!r} is not in {text!r}"


def test_the_error_of_f_itself_gets_a_note_on_what_f_was_called_with():
    with pytest.raises(KeyError) as caught:
        ntk(f, {"w": PARAMS["w"]}, X)
    (note,) = (note for note in caught.value.__notes__ if "tangent kernel" in note)
    assert "params = {w: float64[3, 2]} and x1 = {float64[1, 3]}" in note


def test_what_is_no_mistake_is_taken():
    expected = ntk(f, PARAMS, X)
    np.testing.assert_allclose(
        ntk(f, PARAMS, X, memory_budget=jnp.array(1e9)), expected, rtol=1e-12
    )
    assert Schedule(every_steps=10.0).due(10)
    assert Schedule(every_steps=np.int64(3), on_steps=np.arange(2), every_secs=INF).due(3)
    assert models.create_model("fcn", num_outputs=np.int64(3)).num_outputs == 3
    assert kernel_spectrum(KERNEL, eps=0).noise_floor == 0
    diagnose(KERNEL, layers=PARTS, training=Training(SquaredLoss(), learning_rate=jnp.array(0.1)))
