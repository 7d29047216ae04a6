"""The command `ntk-train report WORKDIR`."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from ntk_train.report.page import write_report
from ntk_train.report.read import ReportError


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        "ntk-train report", description="Writes one HTML page of a run and its tangent kernel."
    )
    parser.add_argument("workdir", type=pathlib.Path, help="the run's folder with its event files")
    parser.add_argument(
        "--output", type=pathlib.Path, help="the file to write, by default WORKDIR/report.html"
    )
    parser.add_argument(
        "--frames", type=int, default=6, help="of how many steps each picture is shown (6)"
    )
    parsed = parser.parse_args(arguments)
    try:
        path = write_report(parsed.workdir, parsed.output, frames=parsed.frames)
    except ModuleNotFoundError as error:
        print(f"ntk-train report: {error}: pip install 'ntk_train[tensorboard]'", file=sys.stderr)
        return 1
    except (ReportError, OSError) as error:
        print(f"ntk-train report: {error}", file=sys.stderr)
        return 1
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0
