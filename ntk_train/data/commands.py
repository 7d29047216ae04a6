"""The commands about data sets.

    ntk-train data prepare cifar10 --data_dir=DIR
    ntk-train data prepare imagenet2012 --data_dir=DIR --manual_dir=DIR_WITH_THE_ARCHIVES
    ntk-train data check imagenet2012

`prepare` alone imports TensorFlow, and it alone may use the network.
"""

import argparse
import os
import pathlib
import shutil
import urllib.request
from collections.abc import Sequence
from typing import Any

import numpy as np

from ntk_train.data import DATASETS, Dataset, load_dataset
from ntk_train.data.prepared import (
    NAMES_WITHOUT_FILES,
    RECIPES,
    NotPreparedError,
    Recipe,
    default_data_dir,
    find,
    instructions,
    recipe_of,
)
from ntk_train.data.records import LABELS, open_split, split_labels

_GIB = 2**30
_TIMEOUT = 4.0  # seconds
_CHECKED = 64  # images of each split that `check` decodes


class _CommandError(Exception):
    """What ends a command, with its text."""


def main(arguments: Sequence[str]) -> int:
    """Runs a command; returns the exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    # What users meet: missing files and packages, damaged archives, a network that is not there.
    except (_CommandError, ModuleNotFoundError, OSError, ValueError) as error:
        print(f"ntk-train data: {error}", flush=True)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command starts anew; downloads are kept.")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("ntk-train data", description="Prepares and checks data sets.")
    commands = parser.add_subparsers(required=True)
    names = ", ".join(sorted({*DATASETS, *RECIPES}))
    data_dir = "where TFDS keeps its data sets; by default TFDS_DATA_DIR or ~/tensorflow_datasets"
    prepare = commands.add_parser("prepare", help="download and convert a data set")
    prepare.add_argument("--manual_dir", type=pathlib.Path, help="with files got by hand")
    prepare.set_defaults(run=_prepare)
    check = commands.add_parser("check", help="say whether a data set can be read")
    check.set_defaults(run=_check)
    for command in (prepare, check):
        command.add_argument("name", help=f"one of {names}")
        command.add_argument("--data_dir", help=data_dir)
    return parser


def _check(arguments: argparse.Namespace) -> None:
    """Loads a data set, decodes some images of each part, and prints what there is."""
    name, kwargs = arguments.name, {}
    if name in RECIPES:
        kwargs = {"data_dir": arguments.data_dir}
        print(f"{name}: {find(name, arguments.data_dir)}")
        if "/" in name:  # a second configuration of the same data set
            name, kwargs["split"] = name.split("/")
    dataset = load_dataset(name, **kwargs)
    for part, source in (("train", dataset.train), ("test", dataset.test)):
        some = np.unique(np.linspace(0, len(source) - 1, _CHECKED).astype(int))
        for index in some:
            _check_example(dataset, part, int(index))
        print(f"  {part}: {len(source)} images of {dataset.image_shape}, {len(some)} decoded")
    print(f"  {dataset.num_classes} classes: {', '.join(dataset.class_names[:10])}")


def _check_example(dataset: Dataset, part: str, index: int) -> None:
    source = dataset.train if part == "train" else dataset.test
    image = source[index]["image"]
    if image.shape != dataset.image_shape or not np.all(np.isfinite(image)):
        msg = (
            f"{dataset.name}, {part} image {index}: shape {image.shape}, expected finite numbers of"
            f" shape {dataset.image_shape}."
        )
        raise _CommandError(msg)


def _prepare(arguments: argparse.Namespace) -> None:
    """Prepares a data set, unless it is there."""
    name = arguments.name
    if name in NAMES_WITHOUT_FILES:
        print(f"{name} needs no preparing.")
        return
    recipe, data_dir = recipe_of(name), default_data_dir(arguments.data_dir)
    try:
        folder = find(name, data_dir)
    except NotPreparedError:
        _check_manual(recipe, data_dir, arguments.manual_dir)
        _check_space(recipe, data_dir)
        _check_network(recipe, data_dir, arguments.manual_dir)
        _run_builder(recipe, data_dir, arguments.manual_dir)
        folder = find(name, data_dir)
    else:
        print(f"{name} is prepared already: {folder}")
    for split in recipe.splits:
        if not (folder / LABELS.format(split)).exists():
            print(f"Reading the labels of {split} ...", flush=True)
        records, num_classes = open_split(folder, split)
        labels = split_labels(records, folder, split, num_classes)
        print(f"  {split}: {len(labels)} images, {num_classes} classes")
    print(f"Ready: {folder}")


def _check_manual(recipe: Recipe, data_dir: pathlib.Path, manual_dir: pathlib.Path | None) -> None:
    """Refuses to start without the files that have to be there."""
    if not recipe.manual:
        return
    missing = [n for n in recipe.manual if manual_dir is None or not (manual_dir / n).is_file()]
    if missing:
        where = "--manual_dir is not given" if manual_dir is None else f"{manual_dir} has no"
        msg = f"{where}: {', '.join(missing)}.\n{instructions(recipe, data_dir)}"
        raise _CommandError(msg)


def _check_space(recipe: Recipe, data_dir: pathlib.Path) -> None:
    """Refuses to start what would fill the disk."""
    existing = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    needed = recipe.prepared + recipe.download
    free = shutil.disk_usage(existing).free / _GIB
    if free < needed:
        msg = (
            f"{recipe.name} needs {needed:.2f} GiB in {data_dir}, which has {free:.2f} GiB free. "
            "Make room, or take another --data_dir."
        )
        raise _CommandError(msg)
    print(f"{recipe.name}: {needed:.2f} GiB needed in {data_dir}, {free:.1f} GiB free.", flush=True)


def _check_network(recipe: Recipe, data_dir: pathlib.Path, manual_dir: pathlib.Path | None) -> None:
    """Asks for one page with a short limit; TFDS tries for minutes before it gives up."""
    missing = [n for n in recipe.optional if manual_dir is None or not (manual_dir / n).is_file()]
    if recipe.download == 0 or (recipe.optional and not missing):
        return
    url = f"{recipe.url}/{missing[0]}" if missing else recipe.url
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT):
            pass
    except OSError as error:
        msg = f"{url} cannot be reached ({error}).\n{instructions(recipe, data_dir)}"
        raise _CommandError(msg) from error


def _run_builder(recipe: Recipe, data_dir: pathlib.Path, manual_dir: pathlib.Path | None) -> None:
    """Downloads and converts, with TFDS's progress bars.

    Raises:
      _CommandError: it could not; the text repeats what is needed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    try:
        builder = make_builder(recipe, data_dir)
        builder.download_and_prepare(download_config=config, file_format="array_record")
    # TFDS raises RuntimeErrors around those of builders, and several kinds for the network.
    except Exception as error:
        msg = (
            f"{recipe.name} could not be prepared: {type(error).__name__}: {error}\n"
            f"{instructions(recipe, data_dir)}"
        )
        raise _CommandError(msg) from error


def make_builder(recipe: Recipe, data_dir: pathlib.Path, **kwargs: Any) -> Any:
    """The builder of a data set, of TFDS or ours.

    Args:
      recipe: of the data set.
      data_dir: where it will be.
      **kwargs: more arguments of the builder.
    """
    import tensorflow_datasets as tfds

    kwargs |= {"data_dir": str(data_dir), "file_format": "array_record"}
    if recipe.config:
        kwargs["config"] = recipe.config
    if recipe.tfds_name == "mini_imagenet":
        from ntk_train.data.mini_imagenet import mini_imagenet_dataset_builder

        return mini_imagenet_dataset_builder.Builder(**kwargs)
    return tfds.builder(recipe.tfds_name, **kwargs)
