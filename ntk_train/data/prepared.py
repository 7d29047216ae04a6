"""Where prepared data sets are, what preparing one takes, and what to do if one is missing.

Looks at folders only, so that a missing data set is an error within milliseconds and never a wait
for the network: `tfds.load` without one takes minutes to give up.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping
from types import MappingProxyType

from ntk_train._registry import lookup
from ntk_train.data.mini_imagenet.split_files import PARTS, URL
from ntk_train.errors import NTKError

_VERSION = re.compile(r"\d+\.\d+\.\d+")


class NotPreparedError(NTKError, FileNotFoundError):
    """A data set is not there, or not in the form that is read here; the text says what to do."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What preparing a data set takes. Sizes are in GiB.

    Attributes:
      name: of `ntk_train.data.DATASETS`.
      tfds_name: of the builder.
      config: of the builder, or "".
      splits: which must be there.
      manual: files to be put into manual_dir by hand.
      optional: files that are taken from manual_dir if they are there, and else downloaded.
      where: where the files to be put there come from.
      url: where the downloads come from.
      download: what is downloaded, without the manual files.
      prepared: what the prepared data set takes.
    """

    name: str
    tfds_name: str
    config: str
    splits: tuple[str, ...]
    manual: tuple[str, ...]
    optional: tuple[str, ...]
    where: str
    url: str
    download: float
    prepared: float

    @property
    def path(self) -> str:
        """Below data_dir, without the version."""
        return "/".join(filter(None, (self.tfds_name, self.config)))


_ILSVRC = "https://image-net.org/download-images, after registration (ILSVRC 2012, {})"
_TRAIN_TAR = "ILSVRC2012_img_train.tar"


def _cifar(name: str) -> Recipe:
    return Recipe(
        name=name,
        tfds_name="cifar10",
        config="",
        splits=("train", "test"),
        manual=(),
        optional=(),
        where="",
        url="https://www.cs.toronto.edu/~kriz/cifar.html",
        download=0.16,
        prepared=0.14,
    )


def _mini_imagenet(name: str, config: str, splits: tuple[str, ...]) -> Recipe:
    return Recipe(
        name=name,
        tfds_name="mini_imagenet",
        config=config,
        splits=splits,
        manual=(_TRAIN_TAR,),
        optional=tuple(PARTS.values()),
        where=_ILSVRC.format("task 1 and 2, training images, 138 GiB"),
        url=URL,
        download=0.01,
        prepared=1.0,
    )


_IMAGENET2012 = Recipe(
    name="imagenet2012",
    tfds_name="imagenet2012",
    config="",
    splits=("train", "validation"),
    manual=(_TRAIN_TAR, "ILSVRC2012_img_val.tar"),
    optional=(),
    where=_ILSVRC.format("task 1 and 2, training and validation images, 144 GiB"),
    url="",
    download=0.0,
    prepared=145.0,
)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            _cifar("cifar2"),
            _cifar("cifar10"),
            _mini_imagenet("mini_imagenet", "holdout", ("train", "test")),
            _mini_imagenet("mini_imagenet/official", "official", ("train", "validation", "test")),
            _IMAGENET2012,
        )
    }
)
"""What can be prepared, by name."""

NAMES_WITHOUT_FILES = ("digits", "lfw_faces", "synthetic")
"""Data sets that need no preparing: they come inside Python packages, or are made up."""


def recipe_of(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
      ValueError: there is none.
    """
    return lookup(RECIPES, name, "dataset to prepare")


def default_data_dir(data_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """That folder; by default TFDS_DATA_DIR, or ~/tensorflow_datasets, as TFDS has it."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(chosen).expanduser().absolute()


def find(name: str, data_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """The folder of the newest prepared version.

    Args:
      name: a key of `RECIPES`.
      data_dir: where TFDS keeps its data sets; see `default_data_dir`.

    Raises:
      ValueError: there is no such recipe.
      NotPreparedError: it is not there, or not in ArrayRecord files.
    """
    recipe, root = recipe_of(name), default_data_dir(data_dir)
    infos = (root / recipe.path).glob("*/dataset_info.json")
    # TFDS calls what was interrupted "incomplete.ABCDEF_1.0.0".
    found = [info.parent for info in infos if _VERSION.fullmatch(info.parent.name)]
    if not found:
        msg = f"The dataset {name!r} is not in {root / recipe.path}.\n{instructions(recipe, root)}"
        raise NotPreparedError(msg)
    readable = [path for path in found if _file_format(path) == "array_record"]
    if not readable:
        newest = max(found, key=_version)
        msg = (
            f"{newest} has files of the format {_file_format(newest)!r}, which cannot be "
            "read at random; expected 'array_record'. Move the folder away and prepare it again.\n"
            f"{instructions(recipe, root)}"
        )
        raise NotPreparedError(msg)
    return max(readable, key=_version)


def instructions(recipe: Recipe, data_dir: pathlib.Path) -> str:
    """How to prepare it: what to get from where, the command, the space it takes."""
    lines = []
    command = f"    ntk-train data prepare {recipe.name} --data_dir={data_dir}"
    if recipe.manual:
        lines += [f"Put {' and '.join(recipe.manual)} into a folder, from", f"    {recipe.where}."]
        if recipe.optional:
            lines += [f"Without a network, put {', '.join(recipe.optional)} there too, from"]
            lines += [f"    {recipe.url}"]
        lines += ["Then run", f"{command} --manual_dir=THAT_FOLDER"]
    else:
        lines += [f"On a machine that reaches {recipe.url} run", command]
    lines.append(
        f"The prepared files take {recipe.prepared:g} GiB, downloads {recipe.download:g} GiB more."
    )
    lines.append("A prepared data set elsewhere: set dataset.kwargs.data_dir or TFDS_DATA_DIR.")
    return "\n".join(lines)


def _file_format(folder: pathlib.Path) -> str:
    return str(json.loads((folder / "dataset_info.json").read_text()).get("fileFormat", "tfrecord"))


def _version(folder: pathlib.Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.name.split("."))
