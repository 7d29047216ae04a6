"""The benchmarks run: tiny networks, no expectation about time."""

import csv
import json
import os
import subprocess
import sys

import jax
import pytest

from experiments import (
    benchmark_gpu,
    benchmark_memory,
    benchmark_planning,
    measure,
    networks,
    record,
)
from experiments.summary import cells_of, totals
from ntk_train import explain

TINY = {
    "fcn": lambda: networks.fcn(8, 3, depth=2),
    "cnn": lambda: networks.cnn(4, 3, pixels=8, depth=2),
    "resnet": lambda: networks.resnet_tiny(3),
    "vit": lambda: networks.vit_tiny(3, pixels=16),
}


@pytest.mark.parametrize("name", TINY)
def test_networks_are_float32_and_always_the_same(name):
    one, two = TINY[name](), TINY[name]()
    leaves = jax.tree.leaves(one.params)
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}
    assert all((a == b).all() for a, b in zip(leaves, jax.tree.leaves(two.params)))
    out = jax.jit(one.f)(one.params, one.inputs(2))
    assert out.shape == (2, 3)
    assert out.dtype == "float32"


@pytest.mark.parametrize(
    ("build", "count"),
    [  # those of the papers and of torchvision, with 1000 outputs
        (networks.resnet18, 11_689_512),
        (networks.resnet50, 25_557_032),
        (networks.vit_s16, 22_050_664),
    ],
)
def test_networks_have_the_published_sizes(build, count):
    assert build(1000).num_parameters == count


@pytest.mark.parametrize("name", networks.FORMS)
def test_weights_in_every_form_are_factored(name):
    network = networks.form(name, width=16)
    found = explain(network.f, network.params, network.inputs(2))
    assert not any(part.unfactored for part in found.plan.all_parts)
    assert {part.way.name for part in found.plan.all_parts} <= {
        "full_gram",
        "half_gram",
        "identity",
        "jacobian",
    }


def test_smoke_of_the_gpu_benchmark(tmp_path):
    """In a process of its own, as on the other machine: float32 by default."""
    names = "fcn-16,resnet-tiny"
    steps = "highest/auto,float64/structured,highest/jacobian_contraction"
    command = [sys.executable, "-m", "experiments.benchmark_gpu", "--smoke", "--cases", names]
    command += ["--steps", steps, "--out", str(tmp_path)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0"}
    done = subprocess.run(
        command, cwd=record.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "benchmark_gpu.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert [row["note"] for row in rows] == [""] * 6
    errors = [float(row["relative_error"]) for row in rows if row["precision"] == "highest"]
    assert len(errors) == 4
    assert max(errors) < 1e-5
    assert all(float(row["milliseconds"]) > 0 for row in rows if row["precision"] == "highest")
    (origin,) = json.loads((tmp_path / "benchmark_gpu.json").read_text()).values()
    assert names in origin["command"]


@pytest.mark.parametrize("benchmark", ["benchmark_products", "profile_gpu"])
def test_smoke_of_what_is_measured_on_a_gpu(tmp_path, benchmark):
    """In a process of its own, as on the other machine: float32 by default."""
    command = [sys.executable, "-m", f"experiments.{benchmark}", "--smoke"]
    command += (
        ["--out", str(tmp_path)] if benchmark == "benchmark_products" else ["--cases", "fcn-16"]
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0"}
    done = subprocess.run(
        command, cwd=record.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if benchmark == "profile_gpu":
        assert "fcn-16 at float32" in done.stdout
        return
    with (tmp_path / "benchmark_products.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    done = [row for row in rows if not row["note"]]
    # What a CPU does not have is a row with the reason.
    assert all("TF32_TF32_F32_X3" in row["note"] for row in rows if row["note"])
    assert {row["product"] for row in done} == {"convolution", "gram", "dot"}
    assert max(float(row["relative_error"]) for row in done) < 1e-6


def test_a_step_that_fails_is_a_row_with_the_reason(monkeypatch):
    def fail(*arguments):
        raise MemoryError("RESOURCE_EXHAUSTED: out of memory\nmore")

    monkeypatch.setattr(benchmark_gpu, "compile_kernel", fail)
    benchmark = benchmark_gpu.Benchmark(None, {})
    row = benchmark.measure(benchmark_gpu.smoke_cases()[0], benchmark_gpu.STEPS[0])
    assert row["note"] == "MemoryError: RESOURCE_EXHAUSTED: out of memory"
    assert row["milliseconds"] == ""


def test_rows_of_a_new_run_replace_those_of_the_same_family(tmp_path, monkeypatch):
    first = [{"family": "fcn", "case": "a"}, {"family": "cnn", "case": "b"}]
    record.merge_table("table", first, ["family"], tmp_path)
    monkeypatch.setattr(record, "RUN", "later")
    record.merge_table("table", [{"family": "fcn", "case": "c"}], ["family"], tmp_path)
    rows, runs = record.load_table(tmp_path / "table")
    assert [(row["case"], row["run"] == "later") for row in rows] == [("b", False), ("c", True)]
    assert len(runs) == 2
    record.merge_table("table", [{"family": "cnn", "case": "d"}], ["family"], tmp_path)
    rows, runs = record.load_table(tmp_path / "table")
    assert [row["case"] for row in rows] == ["c", "d"]
    assert list(runs) == ["later"]


def test_interleaved_runs_long_programs_once():
    calls = {"short": 0, "long": 0}

    def program(name):
        def run():
            calls[name] += 1
            return jax.numpy.zeros(())

        return run

    programs = {name: program(name) for name in calls}
    measured = measure.interleaved({"short": programs["short"]}, 2, seconds_per_round=1e-5)
    assert measured["short"][1] == 8  # four times as many rounds below 0.1 s
    measured = measure.interleaved({"long": programs["long"]}, 2, cap=0.0)
    assert measured["long"][1] == 1
    assert calls["long"] == 1


def test_summary_of_a_table():
    def row(implementation, milliseconds, memory=1.0, chosen=""):
        cell = {"family": "fcn", "case": "fcn 8", "n": 1, "o": 2, "chosen": chosen}
        measured = {"milliseconds": milliseconds, "peak_megabytes": memory}
        return cell | measured | {"implementation": implementation}

    rows = [
        row("auto", "2.0", "10", "structured"),
        row("structured", "1.6"),
        row("jacobian_contraction", "1.0"),
        row("nt structured", "3.0", "5"),
        row("nt jacobian_contraction", "4.0"),
    ]
    (cell,) = cells_of(rows)
    assert (cell.over_own_best, cell.noise, cell.over_jacobian) == (2.0, 1.25, 0.5)
    assert (cell.peer, cell.peer_over_auto, cell.peer_memory_over_auto) == (
        "nt structured",
        1.5,
        0.5,
    )
    (line,) = totals([cell])
    assert line[:3] == ["fcn", "1", "1.50"]
    (alone,) = cells_of(rows[:1])
    assert totals([alone])[0][2] == "nan"


@pytest.mark.heavy
def test_smoke_of_the_benchmark_of_overhead(tmp_path):
    command = [sys.executable, "-m", "experiments.benchmark_overhead", "--smoke"]
    command += ["--out", str(tmp_path)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0"}
    done = subprocess.run(
        command, cwd=record.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "benchmark_overhead.csv").open(newline="") as file:
        rows = {row["way"]: row for row in csv.DictReader(file)}
    counts = {way: int(row["measurements"]) for way, row in rows.items()}
    assert counts["none"] == 0
    assert counts["hook"] == counts["hook, waited"] == 4  # two rounds of ten steps, every fifth
    assert 1 <= counts["hook, bounded"] <= 4


def test_benchmark_of_less_memory(monkeypatch):
    monkeypatch.setattr(benchmark_memory, "PARTS", (1, 16))
    (case,) = benchmark_memory.SMOKE
    whole, part = benchmark_memory.rows_of(case)
    assert (whole["examples"], part["examples"]) == (case.n, 1)
    assert float(part["temporary_megabytes"]) < float(whole["temporary_megabytes"])
    assert 0 < float(part["difference"]) < 1e-6


def test_benchmark_of_planning(monkeypatch):
    monkeypatch.setattr(benchmark_planning, "PIXELS", 32)
    whole, part = benchmark_planning.rows_of(1)
    assert (whole["budget_megabytes"], part["budget_megabytes"]) == ("", "1000")
    assert min(float(whole["tracing_seconds"]), float(whole["seconds"])) > 0
    assert whole["examples"] >= part["examples"]


def test_smoke_of_the_benchmark_of_several_devices(tmp_path):
    command = [
        sys.executable,
        "-m",
        "experiments.benchmark_mesh",
        "--smoke",
        "--out",
        str(tmp_path),
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    done = subprocess.run(
        command, cwd=record.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "benchmark_mesh.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["devices"] for row in rows] == ["1", "2", "4"]
    assert max(float(row["difference"]) for row in rows) < 1e-5
