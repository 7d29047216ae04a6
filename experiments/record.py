"""Keeps a result as data, with where it came from: command, hardware, versions, commit."""

import csv
import json
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence

import jax

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"


def save_table(name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes `results/<name>.csv`, and `results/<name>.json` that says how it was made."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    provenance = {
        "command": " ".join(
            ["python -m", f"experiments.{pathlib.Path(sys.argv[0]).stem}", *sys.argv[1:]]
        ),
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "processor": _processor(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "commit": _commit(),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(provenance, indent=2) + "\n")


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    names = [
        line.split(":")[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def _commit() -> str:
    """The commit, marked where code differs from it (results themselves may)."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "*.py")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("-dirty" if changed else "")
