"""The CSV files of Ravi and Larochelle, which say what MiniImageNet consists of.

    filename,label
    n0153282900000005.jpg,n01532829

The digits after the synset (n and 8 digits) are no ILSVRC number but a rank: the image is the 5th
of its synset, counted from 1, in the order of the ILSVRC numbers.
"""

import csv
import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ntk_train.errors import NTKError

URL = "https://raw.githubusercontent.com/twitter/meta-learning-lstm/master/data/miniImagenet"
PARTS: Mapping[str, str] = MappingProxyType(
    {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
)
"""The file of each part."""

_FILENAME = re.compile(r"(n\d{8})(\d+)\.jpg")


class SplitFileError(NTKError, ValueError):
    """A CSV file, or the archive that it speaks of, is not what it should be."""


@dataclasses.dataclass(frozen=True)
class Expected:
    """What the files have to be.

    Attributes:
      sha256: of the CSV file of each part.
      synsets: of each part, in the order of the labels.
      per_class: the number of images of each class.
      test_per_class: of these, how many are held out by the config "holdout".
    """

    sha256: Mapping[str, str]
    synsets: Mapping[str, tuple[str, ...]]
    per_class: int
    test_per_class: int


def official() -> Expected:
    """The published ones: 64 + 16 + 20 classes of 600 images."""
    synsets = json.loads(pathlib.Path(__file__).with_name("synsets.json").read_text())
    return Expected(
        sha256={
            "train": "498519cd8e49ce97ed26a4a3638966698ae41ab35e9c68538319fc9b46ba7d2f",
            "validation": "5658a59921ca027ee76af92949869c5d6f41d77592ff3b18db325a9d10c893b9",
            "test": "2b7cfa78342995761a572a8158e539bc4e0a80f9bbd7d00c1e17a460fbbb93fa",
        },
        synsets={part: tuple(synsets[part]) for part in PARTS},
        per_class=600,
        test_per_class=100,
    )


@dataclasses.dataclass(frozen=True)
class Member:
    """One image of MiniImageNet.

    Attributes:
      part: "train", "validation" or "test".
      filename: as in the CSV file.
      synset: its class.
      rank: its place in the synset, from 1.
    """

    part: str
    filename: str
    synset: str
    rank: int


def read_part(path: pathlib.Path, part: str, expected: Expected) -> list[Member]:
    """The images of a part, from its CSV file.

    Raises:
      SplitFileError: the checksum, a line, the classes or the number of images is not as expected.
    """
    content = path.read_bytes()
    got, wanted = hashlib.sha256(content).hexdigest(), expected.sha256[part]
    if got != wanted:
        msg = (
            f"{path}: sha256 is {got}, expected {wanted}. Take {URL}/{PARTS[part]}, unchanged "
            "(line ends too)."
        )
        raise SplitFileError(msg)
    members = [
        _member(path, part, line, row)
        for line, row in enumerate(csv.DictReader(content.decode().splitlines()), 2)
    ]
    counts = {synset: 0 for synset in expected.synsets[part]}
    for member in members:
        counts[member.synset] = counts.get(member.synset, 0) + 1
    wanted_counts = dict.fromkeys(expected.synsets[part], expected.per_class)
    if counts != wanted_counts:
        wrong = sorted(s for s in counts if counts[s] != wanted_counts.get(s, 0))[0]
        msg = (
            f"{path}: class {wrong} has {counts[wrong]} images, expected "
            f"{wanted_counts.get(wrong, 0)}."
        )
        raise SplitFileError(msg)
    return members


def held_out(members: Iterable[Member], expected: Expected) -> frozenset[str]:
    """The file names that the config "holdout" keeps for its test part.

    Of each class, those whose SHA-256 of the file name is smallest: a choice that looks random,
    is the same everywhere, and leans on no random number generator.
    """
    classes: dict[str, list[str]] = {}
    for member in members:
        classes.setdefault(member.synset, []).append(member.filename)
    return frozenset(
        name
        for names in classes.values()
        for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[
            : expected.test_per_class
        ]
    )


def by_rank(names: Iterable[str], synset: str) -> list[str]:
    """Names of a synset's images, like n01532829_123.JPEG, in the order of their numbers.

    Raises:
      SplitFileError: a name has another form.
    """
    pattern = re.compile(rf"(?:.*/)?{synset}_(\d+)\.JPEG")
    numbers = {}
    for name in names:
        match = pattern.fullmatch(name)
        if match is None:
            msg = f"{synset}.tar has a member {name!r}; expected names like {synset}_123.JPEG."
            raise SplitFileError(msg)
        numbers[name] = int(match[1])
    return sorted(numbers, key=lambda name: numbers[name])


def _member(path: pathlib.Path, part: str, line: int, row: Mapping[str, str]) -> Member:
    filename, label = row.get("filename") or "", row.get("label") or ""
    match = _FILENAME.fullmatch(filename)
    if match is None or match[1] != label or int(match[2]) < 1:
        msg = (
            f"{path}, line {line}: filename {filename!r}, label {label!r}; expected something like "
            "n0153282900000005.jpg and n01532829."
        )
        raise SplitFileError(msg)
    return Member(part, filename, label, int(match[2]))
