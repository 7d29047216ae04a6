"""Imports go down only, and the core, the models and the hook need no heavy package."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "ntk_train"

# Each stage may import those before it.
ORDER = [
    {"_version", "_types", "errors"},
    {"_arguments", "_integers", "_jax", "_registry"},
    {"rules"},  # what a primitive is: the program asks it at each of its equations
    {"program"},
    {"kernel"},
    {"spectrum"},
    {"monitor"},
    {"models", "data"},
    {"configs"},
    {"train", "report"},
    {"main"},
]
LIGHT = {"jax", "numpy", "jaxtyping"}
ALLOWED = {
    "program": LIGHT,
    "rules": LIGHT,
    "kernel": LIGHT,
    "spectrum": LIGHT | {"matfree"},  # imported where a kernel is an operator
    # Imported when a picture is drawn, an event file written or an NNX model given.
    "monitor": LIGHT | {"flax", "matplotlib", "tensorboard", "tensorboardX", "threadpoolctl"},
    "models": LIGHT | {"flax"},
    "report": {"numpy", "tensorboard", "PIL"},
}
HEAVY = ["clu", "grain", "matplotlib", "ml_collections", "sklearn", "tensorboard", "tensorflow"]
HEAVY += ["equinox", "haiku", "matfree", "tensorboardX", "threadpoolctl"]


def imported(path):
    """Full names of the modules that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def stage_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    height = {stage: i for i, stages in enumerate(ORDER) for stage in stages}
    stage = stage_of(path)
    for name in imported(path):
        parts = name.split(".")
        assert not name.startswith("jax._src"), f"{path} imports {name}"
        if name.startswith("jax.extend"):
            assert stage == "_jax", f"{path} imports {name}; _jax.py alone may"
        if parts[0] == "ntk_train":
            other = parts[1] if parts[1] in height else "__init__"
            assert other != "__init__", f"{path} imports {name} from the top of the package"
            assert other == stage or height[other] < height[stage], f"{path} imports {name}"
        elif parts[0] not in sys.stdlib_module_names and stage in ALLOWED:
            assert parts[0] in ALLOWED[stage], f"{path} imports {name}"


# The stages of the hook: a kernel is computed, its numbers taken, written, and all of that called.
# Each knows the records of those before it, and none calls what comes after it.
FLOW = [
    "schedule",
    "overhead",
    "program",
    "kernels",
    "measure",
    "summaries",
    "pipeline",
    "hook",
    "probes",
]


@pytest.mark.parametrize("stage", FLOW)
def test_the_hook_flows_down(stage):
    later = {f"ntk_train.monitor.{other}" for other in FLOW[FLOW.index(stage) + 1 :]}
    names = {name.rpartition(".")[0] for name in imported(PACKAGE / "monitor" / f"{stage}.py")}
    assert not names & later


def run_without(blocked, program):
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))"
    command = [sys.executable, "-c", f"{block}\n{program}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_kernel_core_and_the_hook_run_without_flax_and_heavy_packages():
    program = """
import jax.numpy as jnp, ntk_train
hook = ntk_train.NTKHook(lambda w, x: jnp.tanh(x @ w), jnp.eye(3), every_steps=1)
hook(0, params=jnp.eye(3))
print(hook.latest.spectrum.condition_number)
"""
    done = run_without([*HEAVY, "flax", "optax"], program)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0


def test_the_models_import_without_heavy_packages():
    done = run_without(HEAVY, "import ntk_train, ntk_train.models")
    assert done.returncode == 0, done.stderr
