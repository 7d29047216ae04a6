"""The page: one HTML file with everything in it."""

import html
import importlib.resources
import pathlib

from ntk_train._version import __version__
from ntk_train.report import parts
from ntk_train.report.charts import Chart, chart_html
from ntk_train.report.curves import kernel_charts, training_charts
from ntk_train.report.read import ReportError, Run, read_run


def write_report(
    workdir: str | pathlib.Path, output: str | pathlib.Path | None = None, *, frames: int = 6
) -> pathlib.Path:
    """Writes the page of a run.

    Args:
      workdir: the folder with its event files.
      output: the file to write, by default `report.html` in `workdir`.
      frames: of how many steps each picture is shown.

    Returns:
      The file.

    Raises:
      ReportError: there is nothing to report on, or no place to write it to.
      ModuleNotFoundError: tensorboard is not installed.
    """
    if frames < 1:
        msg = f"frames={frames}; expected 1 or more pictures of each kind."
        raise ReportError(msg)
    workdir = pathlib.Path(workdir)
    path = workdir / "report.html" if output is None else pathlib.Path(output)
    if output is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        msg = f"--output {path} is a folder or lies in none; expected a file to write, as a.html."
        raise ReportError(msg)
    page = page_of(read_run(workdir), frames=frames)
    path.write_text(page, encoding="utf-8")
    return path


def page_of(run: Run, *, frames: int = 6) -> str:
    """The page as text."""
    own = importlib.resources.files("ntk_train.report")
    style = (own / "page.css").read_text(encoding="utf-8")
    script = (own / "page.js").read_text(encoding="utf-8")
    name = html.escape(run.folder.absolute().name)
    sections = [_kernel(run, prefix, frames) for prefix in run.kernels]
    sections.append(_rest(run))
    body = [_head(run), _failures(run), parts.contents("".join(sections)), *sections]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}: tangent '
        'kernel</title><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{style}</style></head><body><main>{''.join(body)}</main>"
        f"<script>{script}</script></body></html>\n"
    )


def _head(run: Run) -> str:
    config = run.config or {}
    said = []
    for part in ("model", "dataset", "optimizer"):
        section = config.get(part)
        if isinstance(section, dict) and section.get("name"):
            said.append(f"{part} <b>{html.escape(str(section['name']))}</b>")
    first, last = run.step_range
    said.append(f"steps <b>{first:,}</b> to <b>{last:,}</b>")
    for tag in ("eval_accuracy", "train_accuracy"):
        value = parts.last_of(run.scalars.get(tag), percent=True)
        if value is not None:
            said.append(f"{tag.replace('_', ' ')} <b>{value}</b>")
    return (
        f"<header class='top'><p class='kicker'>Tangent kernel of a run</p>"
        f"<h1>{html.escape(run.folder.absolute().name)}</h1><p>{' · '.join(said)}</p></header>"
    )


def _failures(run: Run) -> str:
    found = parts.failures(run)
    if not found:
        return ""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in found)
    return f'<section class="failed"><h2>To know before reading on</h2><ul>{items}</ul></section>'


def _kernel(run: Run, prefix: str, frames: int) -> str:
    at = html.escape(prefix)  # before the addresses of its sections
    title = f'<h2 class="kernel" id="{at}">Kernel <code>{at}</code></h2>'
    kernel = run.kernel(prefix)
    charts = [*training_charts(run), *kernel_charts(kernel)]
    return (
        f"{title if len(run.kernels) > 1 else ''}{parts.key_numbers(kernel)}"
        f'<section><h2 id="{at}-steps">Over the steps</h2>{_grid(charts, run.step_range)}</section>'
        f"{parts.layers(kernel, at)}{parts.pictures(kernel, frames, at)}"
        f'<section><h2 id="{at}-convention">Convention</h2>'
        '<p class="note">What these numbers mean. Compare them only with those of the same one.'
        f"</p>{parts.convention(kernel)}</section>"
    )


def _grid(charts: list[Chart], steps: tuple[int, int]) -> str:
    return f'<div class="grid">{"".join(chart_html(chart, steps) for chart in charts)}</div>'


def _rest(run: Run) -> str:
    files = f"{run.num_files} event file{'s' if run.num_files > 1 else ''}"
    return (
        f'<section><h2 id="rest">Config and all numbers</h2>'
        f"<details><summary>Config</summary>{parts.settings(run)}</details>"
        f"<details><summary>All numbers</summary>{parts.all_numbers(run)}</details></section>"
        f"<footer>From {files} in <code>{html.escape(str(run.folder))}</code>, by ntk_train "
        f"{__version__}. docs/diagnostics.md defines each number.</footer>"
    )
