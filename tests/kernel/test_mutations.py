"""The certificate finds faults that are planted in a copy of the library.

Each mutation changes one line of the package so that a kernel of the bank is wrong, which is seen
in that it differs from the oracle; then `check=True` has to raise.
"""

import os
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent


class Mutation(NamedTuple):
    """A text in a file of the package that is replaced, and the case whose kernel shows it."""

    file: str
    old: str
    new: str
    case: str
    options: str = ""


FAULTS = {
    "none": Mutation("errors.py", "", "", "fully_connected"),
    "identity_of_an_output_used_twice": Mutation(
        "program/linear.py", "and uses[v] == 1", "", "output_uses_its_last_layer_twice"
    ),
    "identity_of_a_bias_used_twice": Mutation(
        "program/linear.py", "and uses[v] == 1", "", "bias_of_the_output_used_in_reverse_too"
    ),
    "cut_at_a_complex_variable": Mutation(
        "program/separator.py",
        "jnp.issubdtype(shape_of(v).dtype, jnp.floating)",
        "True",
        "bottleneck_of_complex_numbers",
    ),
    "labels_of_a_cut_that_the_outputs_have": Mutation(
        "kernel/structured.py",
        "used = layout.left + layout.right",
        "used = layout.left[0] + layout.right[0]",
        "bottleneck_between_outputs_of_several_axes",
        "drop_in",
    ),
    "cut_through_a_weight_of_both_sides": Mutation(
        "program/separator.py",
        "if meeting[v] == node[v] and",
        "if",
        "bottleneck_whose_weights_are_used_after_it_too",
    ),
    "index_compared_in_a_narrow_type": Mutation(
        "_integers.py",
        "(index <= last)",
        "(index < jnp.asarray(size).astype(index.dtype))",
        "embedding_by_uint8_of_256_rows",
    ),
    "examples_that_interact": Mutation(
        "errors.py", "", "", "batch_norm_in_train_mode", "batched=True"
    ),
    "sign_of_the_identity": Mutation(
        "kernel/ways/identity.py",
        """return Labelled(layout.out, jnp.einsum(f"{','""",
        """return Labelled(layout.out, -jnp.einsum(f"{','""",
        "fully_connected",
    ),
    "label_of_equal_outputs": Mutation(
        "kernel/ways/identity.py",
        "factors.append(jnp.eye(size, dtype=x.values.dtype))",
        "factors.append(jnp.ones((size, size), dtype=x.values.dtype))",
        "fully_connected",
    ),
    "missing_rows_that_match": Mutation(
        "kernel/ways/inputs.py", "& (i >= 0)", "", "embedding_of_repeated_and_missing_tokens"
    ),
    "factor_of_a_pushed_kernel": Mutation(
        "kernel/contract.py",
        "Labelled(of_h.out, kernel)",
        "Labelled(of_h.out, 2 * kernel)",
        "bottleneck_between_outputs_of_several_axes",
    ),
    "dropped_grams": Mutation(
        "kernel/ways/full_gram.py",
        "both = g.values * x.values",
        "both = 0 * g.values * x.values",
        "fully_connected",
    ),
    "dropped_use_of_a_weight": Mutation(
        "kernel/ways/way.py",
        "return uses[0] if len(uses) == 1 else jnp.concatenate(uses, axis=-2)",
        "return uses[0] if len(uses) == 1 else jnp.concatenate([uses[0], 0 * uses[1]], axis=-2)",
        "last_layer_used_before_it_too",
    ),
    "sign_of_a_formed_jacobian": Mutation(
        "kernel/ways/jacobian.py",
        'return jnp.einsum("ortb,rta->orba", g, x)',
        'return jnp.einsum("ortb,rta->orba", g, abs(x))',
        "depthwise_convolution",
    ),
    "jacobian_by_a_wrong_position": Mutation(
        "kernel/ways/jacobian.py",
        'jnp.einsum("tk,ta->ka", g, x[0])',
        'jnp.einsum("tk,ta->ka", g, x[0, ::-1])',
        "convolution_with_strides_and_both_dilations",
    ),
    "sites_of_a_leaf_that_are_no_parts": Mutation(
        "kernel/sides.py",
        "[own for _, own in sorted(of.items())]",
        "[own for _, own in sorted(of.items())][:1]",
        "slices_of_stacked_and_fused_weights",
    ),
    "identity_at_several_positions": Mutation(
        "kernel/planning.py",
        "len(uses) == uses[0].r == uses[0].t == 1",
        "len(uses) == 1",
        "output_is_one_layer_at_each_position",
    ),
    "scale_that_divides": Mutation(
        "program/cotangents.py",
        "g / number if is_divisor else g * number",
        "g / number",
        "transposed_scaled_reshaped_weights",
    ),
}

SCRIPT = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
from ntk_train import WrongKernelError, certify, empirical_ntk_fn, ntk
from tests import oracle
from tests.bank import BANK

(case,) = [case for case in BANK if case.name == {case!r}]
f, params, x, _ = case.make("float64")
options = dict({options})
if {drop_in}:
    kernel = empirical_ntk_fn(f, (), (), 0, implementation=3)(x, None, params)
    n, _, *axes = kernel.shape
    order = [0, *range(2, len(axes) + 2, 2), 1, *range(3, len(axes) + 2, 2)]
    size = int(np.prod(axes[::2]))
    kernel = np.asarray(kernel).transpose(order).reshape(n, size, n, size)
else:
    options = dict(batched=case.batched) | options
    kernel = np.asarray(ntk(f, params, x, implementation="structured", **options))
want = oracle.kernel(f, params, x)
print("error", np.abs(kernel - want).max() / np.abs(want).max())
print("certified", certify(kernel, f, params, x).holds)
try:
    ntk(f, params, x, implementation="structured", check=True, **options)
except WrongKernelError as error:
    print("raised", error)
"""


def run(mutation, folder):
    """The lines that the script prints, by their first word."""
    shutil.copytree(ROOT / "ntk_train", folder / "ntk_train")
    path = folder / "ntk_train" / mutation.file
    text = path.read_text()
    assert text.count(mutation.old) == 1 or not mutation.old, f"{mutation.old!r} is not there once"
    path.write_text(text.replace(mutation.old, mutation.new) if mutation.old else text)
    drop_in = mutation.options == "drop_in"
    options = "" if drop_in else mutation.options
    script = SCRIPT.format(case=mutation.case, options=options, drop_in=drop_in)
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.heavy
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name, tmp_path):
    mutation = FAULTS[name]
    found = run(mutation, tmp_path)
    if name == "none":
        assert float(found["error"]) < 1e-12
        assert found["certified"] == "True"
        assert "raised" not in found
        return
    assert float(found["error"]) > 1e-3, "the mutation changes nothing"
    assert found["certified"] == "False"
    if mutation.options != "drop_in":  # `ntk` has no outputs of several axes
        assert "the kernel is wrong" in found["raised"]
