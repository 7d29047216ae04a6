"""What does not fit: at once where it can be known, and else at the price of its own numbers."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntk_train import CrossEntropy, DtypeError, KernelInputError, NTKHook, Training, ntk
from ntk_train.spectrum import SquaredLoss, kernel_target_alignment
from tests.monitor.test_hook import PARAMS, PROBE, Recorder, f

CLASSES = np.array([0, 1, 0, 1, 1, 0])

# Python's own types are checked in a process where nothing else checks them.
WRONG = {
    "every_steps='10'": "every_steps='10'; expected a positive number of steps",
    "every_steps=2.5": "every_steps=2.5; expected a positive number of steps",
    "every_secs='10'": "every_secs='10'; expected a positive number of seconds",
    "on_steps=5": "on_steps is 5; expected the steps at which to run",
    "on_steps='10'": "on_steps='1'; expected the steps at which to run",
    "on_steps=[0.5]": "on_steps=0.5; expected the steps at which to run",
    "last_step='10'": "last_step='10'; expected a step, or None",
    "max_overhead='1%'": "max_overhead='1%'; expected a part of the run's time",
    "max_failures=2.5": "max_failures=2.5; expected an integer of 1 or more",
    "param_filter='w'": "param_filter is 'w'; expected a function from a path",
    "per_layer='w'": "per_layer='w'; expected True, False, or a function",
    "stop_when=1e6": "stop_when=1000000.0; expected a function of a Measurement",
    "training=CrossEntropy()": "classes=None); expected Training(CrossEntropy()) for",
    "references={}": "references={}; expected ReferenceKernels",
    "batched='no'": "batched='no'; expected True for independent examples",
    "top_k=0": "top_k=0; expected how many eigenvectors are the top space",
    "prefix=None": "prefix=None; expected a text",
    "pictures='all'": "pictures='all'; expected True or False",
    "implementation=None": "implementation=None is none of",
    "precision=32": "precision=32 is no name of a precision",
    "outputs=None": "outputs=None; expected a mode or integers",
    "outputs=[0, 1]": "outputs has shape (2,); expected (6,), a logit for each probe input",
    "outputs=-1": "outputs chooses the logit -1; they are numbered from 0",
    "labels='all'": "labels is <U3[]; expected a class for each probe input",
    "labels=[0, -1, 0, 0, 0, 0]": "labels has the class -1; expected classes from 0",
    "labels=[[0], [-1], [0], [0], [0], [0]]": "labels has the class -1; expected classes from 0",
    "labels=[0.0, math.nan, 0, 0, 0, 0]": "labels holds NaN or infinite targets",
    "writer='runs/mine'": "writer is 'runs/mine'; expected an object with clu's write_scalars",
    "writer=tensorboardX.SummaryWriter": "writer is the class SummaryWriter; expected an object",
    "f=None": "f=None; expected a function f(params, x)",
    "f=flax.linen.Dense(3)": "expected a function f(params, x), which linen_fn(model)",
    "f=flax.nnx.Linear(3, 3, rngs=flax.nnx.Rngs(0))": "f(params, x), which linen_fn(model)",
    "probe={'x': x, 'name': 'digits'}": "probe has leaves of shapes [(), (6, 3)]; expected as many",
    "probe=['digits', x], batched=False": "probe has a leaf of type str; expected arrays",
}
PROGRAM = """
import math, numpy as np, flax.linen, flax.nnx, jax.numpy as jnp, tensorboardX
from ntk_train import CrossEntropy, KernelInputError, NTKHook, Training, nnx_fn
from ntk_train.monitor import hooks_for
x = jnp.sin(jnp.arange(18.0)).reshape(6, 3)
for case in {cases!r}:
    given = dict(f=lambda w, x: x @ w, probe=x, every_steps=1) | eval("dict(" + case + ")")
    try:
        NTKHook(given.pop("f"), given.pop("probe"), **given)
    except KernelInputError as error:
        print(str(error).replace(chr(10), " "))
    else:
        print("taken")
try:
    nnx_fn(flax.nnx.Linear(3, 3, rngs=flax.nnx.Rngs(0)), call="f")
except KernelInputError as error:
    print(error)
for case in dict(probes=x), dict(labels=np.zeros(6)), dict(references=[]):
    try:
        hooks_for(lambda w, x: x @ w, **dict(probes=dict(a=x), every_steps=1) | case)
    except KernelInputError as error:
        print(error)
steps = dict(every_steps=np.int64(2), on_steps=np.array([3]), last_step=5.0)
hook = NTKHook(lambda w, x: x @ w, x, **steps)
print([step for step in range(6) if hook.schedule.due(step, 0.0)])
"""


def test_arguments_of_another_kind_are_refused_when_the_hook_is_made():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(cases=list(WRONG))],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *said, of_call, of_probes, of_labels, of_references, due = done.stdout.splitlines()
    for (case, want), got in zip(WRONG.items(), said, strict=True):
        assert want in got, case
    assert "call='f'; expected a function" in of_call
    for name, got in (("probes", of_probes), ("labels", of_labels), ("references", of_references)):
        assert got.startswith(f"{name} is a ")
        assert got.endswith("expected a dict by the names of the probes.")
    assert due == "[0, 2, 3, 4, 5]"  # numbers of other types are taken


def test_logits_are_chosen_by_integers():
    with pytest.raises(DtypeError, match="chosen logits must be integers"):
        NTKHook(f, PROBE, every_steps=1, outputs=np.ones(6))


def graph(params, inputs):
    """A graph network of 4 nodes and 3 edges, one output for each node; a temperature is a part."""
    nodes = jnp.tanh(inputs["nodes"] @ params["w"])
    messages = nodes[inputs["senders"]]
    summed = jax.ops.segment_sum(messages, inputs["receivers"], 4)
    return (nodes + summed) @ params["v"] / inputs["temperature"]


GRAPH = {
    "edge_features": np.zeros((3, 0)),
    "globals": np.zeros((0, 2)),
    "nodes": np.sin(np.arange(12.0)).reshape(4, 3),
    "receivers": np.array([1, 2, 3]),
    "senders": np.array([0, 1, 2]),
    "temperature": np.float64(2.0),
}


def test_the_labels_of_a_graph_are_those_of_its_outputs():
    labels, writer = np.array([0, 1, 1, 0]), Recorder()  # and not of the 3 edges, its first leaf
    hook = NTKHook(graph, GRAPH, labels=labels, every_steps=1, batched=False, writer=writer)
    hook.prepare(params=PARAMS)
    assert hook(0, params=PARAMS)
    hook.close()
    assert hook.failures == 0
    inputs = jax.tree.map(jnp.asarray, GRAPH)
    kernel = ntk(graph, PARAMS, inputs, outputs="trace", batched=False)
    np.testing.assert_allclose(hook.latest.kernel, kernel, rtol=1e-10)
    found = hook.latest.diagnostics.scalars()["kernel_target_alignment"]
    assert found == pytest.approx(kernel_target_alignment(kernel, labels))
    assert "ntk/kernel" in writer.of("write_images")[0][1]
    other = NTKHook(graph, GRAPH, labels=[0, 1, 1], every_steps=1, batched=False)
    with pytest.raises(KernelInputError, match="the kernel is of 4 examples"):
        other.prepare(params=PARAMS)


def test_a_probe_of_the_host_is_copied():
    probe = np.array(PROBE)
    hook = NTKHook(f, probe, every_steps=1)
    want = ntk(f, PARAMS, PROBE, outputs="trace")
    probe[:] = 0  # as a loader does that uses its memory again
    hook(0, params=PARAMS)
    np.testing.assert_allclose(hook.latest.kernel, want, rtol=1e-10)


MISFITS = {
    "classes from 1": ({"labels": CLASSES + 1}, "classes 1 to 2; expected 0 to 1"),
    "a column of them": ({"labels": CLASSES[:, None] + 1}, "classes 1 to 2; expected 0 to 1"),
    "targets of other outputs": ({"labels": np.ones((6, 3))}, "3 targets per example"),
}


@pytest.mark.parametrize("which", MISFITS)
def test_labels_that_do_not_fit_raise_in_prepare_and_cost_their_own_numbers(which, caplog):
    misfit, match = MISFITS[which]
    writer = Recorder()
    options = {"every_steps": 1, "outputs": "full", "per_layer": True, "writer": writer}
    hook = NTKHook(f, PROBE, **misfit, **options)
    for step in range(2):
        assert hook(step, params=PARAMS)
    hook.close()
    assert hook.failures == 0
    found = hook.latest.diagnostics.scalars()
    assert not [name for name in found if "alignment" in name]
    assert {"lambda_max", "layer/w/trace_share", "relative_change"} <= set(found)
    assert len(writer.of("write_images")) == 2
    assert caplog.text.count(match) == 1
    with pytest.raises(KernelInputError, match=match):
        hook.prepare(params=PARAMS)


def test_classes_in_a_column_and_in_an_array_that_changes():
    labels = CLASSES[:, None].copy()
    options = {"every_steps": 1, "outputs": "full", "top_k": 3}
    hook = NTKHook(f, PROBE, labels=labels, **options)
    labels[:] = -1  # as a loader does that uses its memory again
    hook.prepare(params=PARAMS)
    hook(0, params=PARAMS)
    found, kernel = hook.latest.diagnostics.scalars(), np.asarray(hook.latest.kernel, np.float64)
    y = np.eye(2)[CLASSES]
    traced = np.einsum("nomo->nm", kernel)
    cosine = np.sum(traced * (y @ y.T)) / np.linalg.norm(traced) / np.linalg.norm(y @ y.T)
    assert found["kernel_target_alignment"] == pytest.approx(cosine)
    assert hook.latest.labels.shape == (6,)
    u = np.linalg.svd(kernel.reshape(12, 12))[0][:, :3]  # top_k
    assert found["top_space_alignment"] == pytest.approx(np.sum((u.T @ y.ravel()) ** 2) / 6)


def test_classes_from_1_align_with_a_traced_kernel_as_those_from_0():
    found = []
    for labels in (CLASSES, CLASSES + 1):
        hook = NTKHook(f, PROBE, labels=labels, every_steps=1, implementation="structured")
        hook.prepare(params=PARAMS)
        hook(0, params=PARAMS)
        found.append(hook.latest.diagnostics.scalars())
    assert found[0] == pytest.approx(found[1])


def masked(params, x):
    """Three classes, of which an example has two."""
    logits = jnp.concatenate([f(params, x), f(params, x)[:, :1] ** 2], axis=1)
    return jnp.where(jnp.arange(3) == jnp.arange(6)[:, None][: len(x)] % 3, -jnp.inf, logits)


def test_a_class_that_is_masked_has_no_derivative_and_the_rest_is_measured(caplog):
    training = Training(CrossEntropy(), 0.1)
    hook = NTKHook(masked, PROBE, every_steps=1, outputs="full", training=training, batched=False)
    assert hook(0, params=PARAMS)
    hook.close()
    assert hook.failures == 0
    assert not caplog.records

    mask = np.isneginf(np.asarray(masked(PARAMS, PROBE)))
    labels = np.argmin(mask, axis=1)

    def loss(outputs):
        rows = jax.nn.log_softmax(jnp.where(mask, -jnp.inf, outputs.reshape(6, 3)))
        return -rows[jnp.arange(6), labels].mean()

    h = np.asarray(jax.hessian(loss)(jnp.where(mask, 0.0, masked(PARAMS, PROBE)).reshape(-1)))
    kernel = np.asarray(hook.latest.kernel, np.float64).reshape(18, 18)
    want = 2 / np.max(np.linalg.eigvals(h @ kernel).real)
    found = hook.latest.diagnostics.scalars()
    assert found["critical_learning_rate"] == pytest.approx(want, rel=1e-6)


def test_a_masked_class_does_not_hide_that_examples_interact(caplog):
    def coupled(params, x):
        longest = jax.lax.while_loop(lambda n: n < abs(x).sum(), lambda n: n + 1.0, 0.0)
        return f(params, x / longest).at[:, 0].set(-jnp.inf)

    hook = NTKHook(coupled, PROBE, every_steps=1)
    assert hook(0, params=PARAMS)
    hook.close()
    assert "examples interact" in caplog.text


def test_outputs_that_are_not_finite_cost_the_critical_rate_alone(caplog):
    def infinite(params, x):
        return f(params, x).at[1, 0].set(jnp.inf)

    training = Training(CrossEntropy())
    options = {"outputs": "full", "training": training, "batched": False}
    hook = NTKHook(infinite, PROBE, every_steps=1, labels=CLASSES, **options)
    for step in range(2):
        assert hook(step, params=PARAMS)
    hook.close()
    found = hook.latest.diagnostics.scalars()
    assert "critical_learning_rate" not in found
    assert {"lambda_max", "kernel_target_alignment"} <= set(found)
    assert hook.failures == 0
    assert caplog.text.count("No numbers of training from step 0 on") == 1


def test_a_schedule_that_fails_costs_the_ratio_alone(caplog):
    hook = NTKHook(f, PROBE, every_steps=1, outputs="full", training=Training(SquaredLoss(), 0.1))
    schedule = optax.exponential_decay(0.1, 10, 0.5)
    for step, rate in enumerate([lambda step: 1 / 0, jnp.ones(2), schedule]):
        assert hook(step, params=PARAMS, learning_rate=rate)
        found = hook.latest.diagnostics.scalars()
        assert "critical_learning_rate" in found
        assert ("full_batch_learning_rate_ratio" in found) == (rate is schedule)
    assert hook.failures == 0
    assert caplog.text.count("No numbers of learning_rate from step 0 on") == 1
