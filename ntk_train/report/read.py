"""A run out of its folder: what its event files hold, each number once for each step.

A run that was interrupted has several event files. Where a later one begins at step s again, what
an earlier one says of that tag from s on is of steps that were taken back, and is left out. Which
is later says the trainer's list of them, or else the time in their names; the one with the least
step comes first in any case, as clocks are set back now and then.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from ntk_train.errors import NTKError
from ntk_train.monitor import tags
from ntk_train.report.events import DamagedError, read_events

_EVENT_FILES = "*tfevents*"
_TEXT_SUFFIX = "/text_summary"  # that tensorboardX adds to the tag


class ReportError(NTKError, ValueError):
    """There is nothing to report on; the text says what is missing and what helps."""


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """A number over the steps: [k] int64 steps, ascending, and [k] float64 values."""

    steps: np.ndarray
    values: np.ndarray

    def finite(self) -> "Series":
        """Without NaN and infinite values."""
        keep = np.isfinite(self.values)
        return Series(self.steps[keep], self.values[keep])

    @property
    def last(self) -> float:
        """The value at the last step."""
        return float(self.values[-1])


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """What a run says of one kernel, by the names of its numbers.

    Attributes:
      prefix: of its tags.
      numbers: of the whole kernel, and of the hook itself.
      layers: numbers of each layer, by its name, in the order in which they were logged.
      images: as of `Run`.
      histograms: as of `Run`.
      texts: as of `Run`.
    """

    prefix: str
    numbers: Mapping[str, Series]
    layers: Mapping[str, Mapping[str, Series]]
    images: Mapping[str, Mapping[int, bytes]]
    histograms: Mapping[str, Mapping[int, np.ndarray]]
    texts: Mapping[str, str]


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What the event files of a run hold.

    Attributes:
      folder: where they lie.
      scalars: numbers by tag.
      histograms: by tag and step, buckets [b, 3]: left edge, right edge, count.
      images: PNG files by tag and step.
      texts: by tag, the last one.
      kernels: prefixes of the tags of each kernel, "ntk" for example.
      config: of the trainer, from `config.json`; None if there is no such file.
      problems: what could not be read.
      num_files: how many event files there are.
    """

    folder: pathlib.Path
    scalars: Mapping[str, Series]
    histograms: Mapping[str, Mapping[int, np.ndarray]]
    images: Mapping[str, Mapping[int, bytes]]
    texts: Mapping[str, str]
    kernels: tuple[str, ...]
    config: Mapping[str, Any] | None
    problems: tuple[str, ...]
    num_files: int

    @property
    def step_range(self) -> tuple[int, int]:
        """The first and the last step of which there is a number."""
        steps = [series.steps for series in self.scalars.values()]
        return int(min(s[0] for s in steps)), int(max(s[-1] for s in steps))

    def kernel(self, prefix: str) -> Kernel:
        """What there is of one kernel."""
        return Kernel(
            prefix,
            tags.by_name(prefix, self.scalars),
            tags.by_layer(prefix, self.scalars),
            tags.by_name(prefix, self.images),
            tags.by_name(prefix, self.histograms),
            tags.by_name(prefix, self.texts),
        )


def read_run(folder: pathlib.Path) -> Run:
    """Reads all event files of a folder, in the order in which they were begun.

    Raises:
      ReportError: there is no folder, no event file, or no kernel's numbers in them.
      ModuleNotFoundError: tensorboard is not installed.
    """
    files = _event_files(folder)
    merged: _Content = {}
    problems, contents = [], []
    for path in files:
        found, problem = _read_file(path)
        problems += [problem] if problem else []
        contents.append(found)
    for found in _begun_in_order(contents):
        for key, values in found.items():
            earlier, first = merged.get(key, {}), min(values)
            kept = {step: value for step, value in earlier.items() if step < first}
            merged[key] = kept | dict(sorted(values.items()))
    of = {plugin: _of(merged, plugin) for plugin in ("scalars", "histograms", "images", "text")}
    scalars = {tag: _series(values) for tag, values in of["scalars"].items()}
    kernels = tags.prefixes(scalars)
    if not kernels:
        shown = ", ".join(sorted(scalars)[:6]) or "none"
        msg = (
            f"The event files in {folder} hold no kernel's numbers (their scalars: {shown}); "
            "expected <prefix>/lambda_max and so on, as NTKHook writes them. Give the hook the "
            "writer of this run, or name the folder to which it wrote."
        )
        raise ReportError(msg)
    config, problem = _config(folder / "config.json")
    problems += [problem] if problem else []
    problems += _earlier_configs(folder)
    return Run(
        folder=folder,
        scalars=scalars,
        histograms=of["histograms"],
        images={tag: _pngs(values) for tag, values in of["images"].items()},
        texts={tag.removesuffix(_TEXT_SUFFIX): _text(v) for tag, v in of["text"].items()},
        kernels=kernels,
        config=config,
        problems=tuple(problems),
        num_files=len(files),
    )


def _event_files(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        msg = f"WORKDIR {folder} is no folder; expected that of a run, as --workdir of ntk-train."
        raise ReportError(msg)
    order = _listed(folder / "event_files.json")
    files = sorted(
        (path for path in folder.glob(_EVENT_FILES) if path.is_file()),
        key=lambda path: (order.get(path.name, len(order)), path.name),
    )
    if not files:
        below = sorted({str(path.parent) for path in folder.rglob(_EVENT_FILES)})
        remedy = "Was another folder the --workdir of the run, or the writer's?"
        if below:
            remedy = f"There are some in {', '.join(below[:5])}: name one of these."
        msg = f"WORKDIR {folder} holds no event files (events.out.tfevents.*). {remedy}"
        raise ReportError(msg)
    return files


def _listed(path: pathlib.Path) -> dict[str, int]:
    """The places of event files in the list that the trainer keeps of those before its own."""
    try:
        names = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): i for i, name in enumerate(names)} if isinstance(names, list) else {}


_Content: TypeAlias = dict[tuple[str, str], dict[int, Any]]
"""Values by plugin and tag, and step."""


def _begun_in_order(contents: list[_Content]) -> list[_Content]:
    """The first of those with the least step comes first: no run goes on before it is begun."""
    begins = [_first_step(found) for found in contents]
    first = begins.index(min(begins))
    return [contents[first], *contents[:first], *contents[first + 1 :]]


def _first_step(found: _Content) -> float:
    """That of its numbers, as texts are written as of step 0."""
    steps = [min(values) for (plugin, _), values in found.items() if plugin == "scalars"]
    return min(steps, default=math.inf)


def _read_file(path: pathlib.Path) -> tuple[_Content, str | None]:
    """Values by plugin, tag and step, and what is wrong with the file."""
    from tensorboard.util import tensor_util

    plugins: dict[str, str] = {}
    found: _Content = {}
    try:
        for event in read_events(path):
            for value in event.summary.value:
                # Some writers name the plugin in the first summary of a tag only.
                name = value.metadata.plugin_data.plugin_name
                plugin = plugins.setdefault(value.tag, name)
                if plugin in ("scalars", "histograms", "images", "text"):
                    array = tensor_util.make_ndarray(value.tensor)
                    found.setdefault((plugin, value.tag), {})[event.step] = array
    except DamagedError as error:
        return found, str(error)
    return found, None


def _of(merged: Mapping[tuple[str, str], Any], plugin: str) -> dict[str, dict[int, Any]]:
    return {tag: values for (kind, tag), values in merged.items() if kind == plugin}


def _series(values: Mapping[int, np.ndarray]) -> Series:
    numbers = [float(np.asarray(value).ravel()[0]) for value in values.values()]
    return Series(np.array(list(values), dtype=np.int64), np.array(numbers, dtype=np.float64))


def _pngs(values: Mapping[int, np.ndarray]) -> dict[int, bytes]:
    """The first picture of each step; entries are width, height, then the files."""
    return {step: bytes(array[2]) for step, array in values.items() if len(array) > 2}


def _text(values: Mapping[int, np.ndarray]) -> str:
    last = np.asarray(values[max(values)]).ravel()[0]
    return last.decode("utf-8", "replace") if isinstance(last, bytes) else str(last)


def _config(path: pathlib.Path) -> tuple[Mapping[str, Any] | None, str | None]:
    if not path.exists():
        return None, None
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return None, f"config.json could not be read: {error}"
    return (config, None) if isinstance(config, dict) else (None, "config.json holds no config.")


def _earlier_configs(folder: pathlib.Path) -> list[str]:
    """What the configs of earlier steps were, of a run that went on by another one."""
    paths = {}
    for path in folder.glob("config_until_*.json"):
        number = path.stem.removeprefix("config_until_")
        if number.isdigit() and int(number) > 0:  # of 0 there are no steps
            paths[int(number)] = path
    said = []
    configs = [_config(paths[step])[0] or {} for step in sorted(paths)]
    configs.append(_config(folder / "config.json")[0] or {})
    for step, old, new in zip(sorted(paths), configs, configs[1:], strict=False):
        before, after = flat(old), flat(new)
        fields = sorted(before.keys() | after.keys())
        changed = [
            f"{name} was {before.get(name, 'not there')}, then {after.get(name, 'not there')}"
            for name in fields
            if before.get(name) != after.get(name)
        ]
        said.append(f"From step {step:,} on the run had another config: {'; '.join(changed)}.")
    return said


def flat(config: Mapping[str, Any], start: str = "") -> dict[str, str]:
    """A config as texts by the names of its fields, "optimizer.name" for example."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{start}{key}.")
        else:
            found[f"{start}{key}"] = str(value)
    return found
