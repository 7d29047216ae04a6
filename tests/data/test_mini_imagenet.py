import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow_datasets")

from ntk_train.data import load_dataset, prepared
from ntk_train.data.commands import make_builder
from ntk_train.data.images import shrink
from ntk_train.data.mini_imagenet import split_files
from ntk_train.data.mini_imagenet.split_files import SplitFileError
from tests.data import archives

SYNSETS = {"train": archives.SYNSETS[:2], "validation": (archives.SYNSETS[2],)} | {
    "test": (archives.SYNSETS[3],)
}
RANKS = (2, 5, 1)  # of each class, in the order of the CSV file
NUMBERS = (10027, 7, 301, 36, 2)  # ILSVRC's, in the order of the archive; by rank: 2 7 36 301 10027


def colour(synset, number):
    """Each image has a colour of its own, by which it is known again."""
    return archives.SYNSETS.index(synset) * 60 + NUMBERS.index(number) * 10 + 10


def image(synset, number):
    file = io.BytesIO()
    Image.new("RGB", (100, 90), (colour(synset, number),) * 3).save(file, "JPEG", quality=100)
    return file.getvalue()


@pytest.fixture
def manual_dir(tmp_path):
    folder = tmp_path / "manual"
    folder.mkdir()
    images = {s: {n: image(s, n) for n in NUMBERS} for s in archives.SYNSETS}
    archives.train_tar(folder / "ILSVRC2012_img_train.tar", images)
    for part, file in split_files.PARTS.items():
        rows = [f"{s}{rank:08}.jpg,{s}" for s in SYNSETS[part] for rank in RANKS]
        (folder / file).write_text("\n".join(["filename,label", *rows, ""]))
    return folder


def expected(folder):
    sha256 = {part: archives.sha256(folder / file) for part, file in split_files.PARTS.items()}
    return split_files.Expected(sha256, SYNSETS, per_class=3, test_per_class=1)


def prepare(name, data_dir, manual_dir):
    recipe = prepared.recipe_of(name)
    builder = make_builder(recipe, data_dir, expected=expected(manual_dir))
    archives.prepare(builder, manual_dir)


def grey(source, index):
    value = np.unique(source[index]["image"])
    assert len(value) == 1
    return int(value[0])


def test_official_split_is_by_class_and_rank(tmp_path, manual_dir):
    prepare("mini_imagenet/official", tmp_path / "tfds", manual_dir)
    dataset = load_dataset(
        "mini_imagenet", split="official", data_dir=tmp_path / "tfds", image_dtype="uint8"
    )
    assert dataset.class_names == archives.SYNSETS
    assert dataset.image_shape == (84, 84, 3)
    assert sorted(dataset.train.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    assert dataset.test.labels.tolist() == [3, 3, 3]
    for source in (dataset.train, dataset.test):
        for label in np.unique(source.labels):
            got = {grey(source, int(i)) for i in np.flatnonzero(source.labels == label)}
            # Ranks 2, 5 and 1 of the numbers in order.
            assert got == {colour(archives.SYNSETS[label], number) for number in (7, 10027, 2)}


def test_holdout_splits_every_class(tmp_path, manual_dir):
    prepare("mini_imagenet", tmp_path / "tfds", manual_dir)
    dataset = load_dataset("mini_imagenet", data_dir=tmp_path / "tfds", image_dtype="uint8")
    assert np.bincount(dataset.train.labels).tolist() == [2, 2, 2, 2]
    assert np.bincount(dataset.test.labels).tolist() == [1, 1, 1, 1]
    greys = [grey(s, i) for s in (dataset.train, dataset.test) for i in range(len(s))]
    assert len(set(greys)) == 12
    augmented = dataset.train.augmented(0, np.random.default_rng(0))
    assert augmented["image"].shape == (84, 84, 3)


def test_images_are_resized_without_a_crop_or_loss(tmp_path, manual_dir):
    synset = SYNSETS["train"][0]
    content = archives.photo(1, 130, 97)
    images = {s: {n: content for n in NUMBERS} for s in archives.SYNSETS}
    archives.train_tar(manual_dir / "ILSVRC2012_img_train.tar", images)
    prepare("mini_imagenet", tmp_path / "tfds", manual_dir)
    dataset = load_dataset("mini_imagenet", data_dir=tmp_path / "tfds", image_dtype="uint8")
    index = int(np.flatnonzero(dataset.train.labels == archives.SYNSETS.index(synset))[0])
    np.testing.assert_array_equal(dataset.train[index]["image"], shrink(content, 84))


def test_the_published_counts_add_up():
    official = split_files.official()
    counts = {part: len(s) * official.per_class for part, s in official.synsets.items()}
    assert counts == {"train": 38_400, "validation": 9_600, "test": 12_000}
    synsets = [s for part in split_files.PARTS for s in official.synsets[part]]
    assert len(set(synsets)) == 100


def test_a_wrong_checksum_names_file_got_and_expected(tmp_path, manual_dir):
    path = manual_dir / "val.csv"
    got, wanted = archives.sha256(path), split_files.official().sha256["validation"]
    with pytest.raises(SplitFileError, match=rf"{path}: sha256 is {got}, expected {wanted}"):
        split_files.read_part(path, "validation", split_files.official())
    # And so does the builder, as it is in production.
    builder = make_builder(prepared.recipe_of("mini_imagenet"), tmp_path / "tfds")
    with pytest.raises(Exception, match=r"train.csv: sha256 is .*, expected 498519cd8e49"):
        archives.prepare(builder, manual_dir)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda t: t.replace("05.jpg", "05.png"), r"line 3: filename 'n\d+05.png'"),
        (lambda t: t.replace("00000005", "00000000"), "line 3: filename"),
        (lambda t: t.replace("filename,", "name,"), "line 2: filename ''"),
        (lambda t: t.rsplit("\n", 2)[0] + "\n", "has 2 images, expected 3"),
        (lambda t: t.replace("n02105505", "n02105506"), "n02105505 has 0 images, expected 3"),
    ],
)
def test_a_wrong_csv_names_the_line_or_class(edit, text, manual_dir):
    path = manual_dir / "val.csv"
    path.write_text(edit(path.read_text()))
    with pytest.raises(SplitFileError, match=rf"val.csv.*{text}"):
        split_files.read_part(path, "validation", expected(manual_dir))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda i: i.pop("n02105505"), "has no n02105505.tar, nor 0 more"),
        (lambda i: i["n02105505"].pop(36), "has 4 images, n0210550500000005.jpg asks for number 5"),
        (lambda i: i["n02105505"].update({2: b"no image"}), r"n02105505_2.JPEG: cannot identify"),
        (lambda i: i["n02105505"].update(x=b""), r"member 'n02105505_x.JPEG'; expected"),
    ],
)
def test_a_wrong_archive_is_named(change, text, tmp_path, manual_dir):
    images = {s: {n: image(s, n) for n in NUMBERS} for s in archives.SYNSETS}
    change(images)
    archives.train_tar(manual_dir / "ILSVRC2012_img_train.tar", images)
    with pytest.raises(Exception, match=text):
        prepare("mini_imagenet", tmp_path / "tfds", manual_dir)
