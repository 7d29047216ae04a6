"""MiniImageNet from ImageNet's training archive, after the lists of Ravi and Larochelle.

The images are resized to 84 x 84 by averaging over areas, without a crop, and kept as PNG, without
a second loss.
"""

import dataclasses
import io
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from ntk_train.data.images import shrink
from ntk_train.data.mini_imagenet import split_files
from ntk_train.data.mini_imagenet.split_files import Expected, Member, SplitFileError

ARCHIVE = "ILSVRC2012_img_train.tar"
SIZE = 84


@dataclasses.dataclass(kw_only=True, eq=False)  # not frozen, as TFDS's is not
class Config(tfds.core.BuilderConfig):
    """How the images are split.

    Attributes:
      by_class: the split of Ravi and Larochelle; else, a part of each class is held out.
    """

    by_class: bool


class Builder(tfds.core.GeneratorBasedBuilder):
    """Prepares MiniImageNet.

    Args:
      expected: what the files have to be; the published ones by default, others are for tests.
      **kwargs: of `tfds.core.GeneratorBasedBuilder`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012, as TFDS declares it
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"manual_dir has {ARCHIVE} of https://image-net.org/download-images, and train.csv, "
        f"val.csv and test.csv of {split_files.URL}, if they cannot be downloaded."
    )
    BUILDER_CONFIGS = [  # noqa: RUF012
        Config(
            name="holdout",
            description="All 100 classes in both parts: 500 images of each to train, 100 to test.",
            by_class=False,
        ),
        Config(
            name="official",
            description="64, 16 and 20 classes that are disjoint, 600 images of each.",
            by_class=True,
        ),
    ]

    def __init__(self, *, expected: Expected | None = None, **kwargs: Any) -> None:
        self._expected = expected or split_files.official()  # first, for the base asks for _info
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        synsets = self._expected.synsets
        names = [synset for part in split_files.PARTS for synset in synsets[part]]
        return tfds.core.DatasetInfo(
            builder=self,
            description="100 classes of ImageNet with 600 images each, 84 x 84 pixels.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=names),
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://openreview.net/forum?id=rJY0-Kcll",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        manual_dir = pathlib.Path(dl_manager.manual_dir)
        archive = manual_dir / ARCHIVE
        if not archive.exists():
            msg = f"{archive} is missing. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            raise FileNotFoundError(msg)
        members = []
        for part, file in split_files.PARTS.items():
            path = manual_dir / file
            if not path.exists():
                path = pathlib.Path(dl_manager.download(f"{split_files.URL}/{file}"))
            members += split_files.read_part(path, part, self._expected)
        if self.builder_config.by_class:
            splits = {part: [m for m in members if m.part == part] for part in split_files.PARTS}
        else:
            test = split_files.held_out(members, self._expected)
            splits = {
                "train": [m for m in members if m.filename not in test],
                "test": [m for m in members if m.filename in test],
            }
        return {name: self._generate_examples(archive, part) for name, part in splits.items()}

    def _generate_examples(
        self, archive: pathlib.Path, members: list[Member]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Key and example of each member.

        Raises:
          SplitFileError: the archive lacks a synset or an image.
        """
        wanted: dict[str, list[Member]] = {}
        for member in members:
            wanted.setdefault(member.synset, []).append(member)
        with tarfile.open(archive) as outer:
            for entry in outer:
                synset = pathlib.PurePath(entry.name).stem
                file = outer.extractfile(entry)
                if file is not None and synset in wanted:
                    yield from _of_synset(io.BytesIO(file.read()), archive, wanted.pop(synset))
        if wanted:
            msg = f"{archive} has no {next(iter(wanted))}.tar, nor {len(wanted) - 1} more."
            raise SplitFileError(msg)


def _of_synset(
    file: io.BytesIO, archive: pathlib.Path, members: list[Member]
) -> Iterator[tuple[str, dict[str, Any]]]:
    synset = members[0].synset
    with tarfile.open(fileobj=file) as inner:
        names = split_files.by_rank((e.name for e in inner if e.isfile()), synset)
        for member in members:
            if member.rank > len(names):
                msg = (
                    f"{archive}: {synset}.tar has {len(names)} images, {member.filename} asks for "
                    f"number {member.rank}. The archive is not that of ILSVRC 2012."
                )
                raise SplitFileError(msg)
            encoded = inner.extractfile(names[member.rank - 1])
            assert encoded is not None, names[member.rank - 1]
            try:
                image = shrink(encoded.read(), SIZE)
            except OSError as error:
                msg = f"{archive}: {synset}.tar, {names[member.rank - 1]}: {error}."
                raise SplitFileError(msg) from error
            yield (
                member.filename,
                {"image": image, "label": synset, "file_name": names[member.rank - 1]},
            )
