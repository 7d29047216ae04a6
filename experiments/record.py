"""Keeps a result as data, with where it came from: command, hardware, versions, commit.

A table can grow run by run: rows of a new run take the place of those that have the same key, and
`<name>.json` keeps the provenance of each run that rows of `<name>.csv` name in their last column.
To take over what another machine has written to a folder:

    python -m experiments.record benchmark_gpu FOLDER
"""

import argparse
import csv
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"

# When this run was started, by which its rows are known.
RUN = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

_RECORDED = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")


def save_table(name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes `results/<name>.csv`, and `results/<name>.json` that says how it was made."""
    RESULTS.mkdir(exist_ok=True)
    _write(RESULTS / name, header, rows, provenance())


def merge_table(
    name: str,
    rows: Sequence[Mapping[str, object]],
    key: Sequence[str],
    folder: pathlib.Path = RESULTS,
) -> None:
    """Puts the rows of this run in the place of those in `folder/<name>.csv` with the same keys.

    Args:
      name: of the table.
      rows: of this run, from column to value; all have the same columns.
      key: columns that say what a row replaces, for example only the family of networks.
      folder: where the table is.
    """
    own = [{**row, "run": RUN} for row in rows]
    _merge(folder / name, own, {RUN: provenance()}, key)


def load_table(path: pathlib.Path) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Rows of `<path>.csv` and the content of `<path>.json`; both empty where there is none."""
    table, origin = path.with_suffix(".csv"), path.with_suffix(".json")
    if not table.exists():
        return [], {}
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads(origin.read_text())


def provenance() -> dict[str, Any]:
    """The command, hardware, versions and commit of this run."""
    script = pathlib.Path(sys.argv[0]).stem
    return {
        "command": " ".join(["python -m", f"experiments.{script}", *sys.argv[1:]]),
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "processor": _processor(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "commit": _commit(),
        **{name: os.environ[name] for name in _RECORDED if name in os.environ},
    }


def _merge(
    path: pathlib.Path,
    new: Sequence[Mapping[str, object]],
    runs: Mapping[str, Any],
    key: Sequence[str],
) -> None:
    old_rows, old_runs = load_table(path)
    replaced = {tuple(str(row[column]) for column in key) for row in new}
    kept = [row for row in old_rows if tuple(row.get(column) for column in key) not in replaced]
    if any(row.keys() != new[0].keys() for row in kept):
        kept = []  # of an older form of the table
    rows = [*kept, *new]
    named = {str(row["run"]) for row in rows}
    origin = {run: origin for run, origin in {**old_runs, **runs}.items() if run in named}
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, list(new[0]), [list(row.values()) for row in rows], origin)


def _write(
    path: pathlib.Path,
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    origin: Mapping[str, Any],
) -> None:
    with path.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    path.with_suffix(".json").write_text(json.dumps(origin, indent=2) + "\n")


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    names = [
        line.split(":")[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def _commit() -> str:
    """The commit, marked where code differs from it (results themselves may).

    Where the code is no git repository, the environment variable COMMIT says which one it is.
    """

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return ""
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "*.py")
    head = git("rev-parse", "--short=12", "HEAD") or os.environ.get("COMMIT", "unknown")
    return head + ("-dirty" if changed else "")


def main() -> None:
    """Merges a table that was written elsewhere into the results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name", help="of the table")
    parser.add_argument("folder", type=pathlib.Path, help="with <name>.csv and <name>.json")
    parser.add_argument(
        "--key", default="case,implementation,precision", help="columns that a row is known by"
    )
    arguments = parser.parse_args()
    rows, runs = load_table(arguments.folder / arguments.name)
    if not rows:
        sys.exit(f"No {arguments.name}.csv in {arguments.folder}.")
    _merge(RESULTS / arguments.name, rows, runs, arguments.key.split(","))


if __name__ == "__main__":
    main()
