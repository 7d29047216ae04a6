"""Small archives in the layout of the real ones, and data sets prepared from them."""

import hashlib
import io
import shutil
import tarfile
import warnings

import numpy as np
from PIL import Image

from ntk_train.data import prepared
from ntk_train.data.commands import make_builder

SYNSETS = ("n01440764", "n01532829", "n02105505", "n09256479")


def photo(seed, width=50, height=40, kind="JPEG"):
    """An encoded image: a smooth colour ramp, with some noise."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(width) / width, np.arange(height) / height)
    ramp = 60 * x[..., None] * rng.uniform(size=3) + 60 * y[..., None] * rng.uniform(size=3)
    image = (ramp + rng.uniform(0, 100) + rng.uniform(0, 8, ramp.shape)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def add(tar, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def train_tar(path, images):
    """ILSVRC2012_img_train.tar of {synset: {number: encoded image}}, in the order given."""
    with tarfile.open(path, "w") as outer:
        for synset, numbered in images.items():
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w") as inner:
                for number, content in numbered.items():
                    add(inner, f"{synset}_{number}.JPEG", content)
            add(outer, f"{synset}.tar", file.getvalue())


def val_tar(path, count):
    with tarfile.open(path, "w") as tar:
        for number in range(1, count + 1):
            add(tar, f"ILSVRC2012_val_{number:08}.JPEG", photo(1000 + number))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def prepare(builder, manual_dir=None):
    """Prepares; TFDS and TensorFlow warn of their own affairs then."""
    import tensorflow_datasets as tfds

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = tfds.download.DownloadConfig(manual_dir=manual_dir)
        builder.download_and_prepare(download_config=config, file_format="array_record")


def prepare_imagenet(folder, manual_dir, train=3, validation=5):
    """ImageNet with `train` images of each of `SYNSETS`."""
    images = {s: {n: photo(n) for n in range(1, train + 1)} for s in SYNSETS}
    train_tar(manual_dir / "ILSVRC2012_img_train.tar", images)
    val_tar(manual_dir / "ILSVRC2012_img_val.tar", validation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        builder = make_builder(prepared.recipe_of("imagenet2012"), folder)
    prepare(builder, manual_dir)


def prepare_images(folder, images, num_classes=10, version="3.0.2"):
    """A data set in folder/version: {split: [(encoded PNG, label)]}, in this order."""
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = "tiny"

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(None, None, 3)),
                        "label": tfds.features.ClassLabel(num_classes=num_classes),
                    }
                ),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):  # noqa: ARG002
            return {name: self._generate_examples(rows) for name, rows in images.items()}

        def _generate_examples(self, rows):
            for key, (content, label) in enumerate(rows):
                yield key, {"image": io.BytesIO(content), "label": label}

    scratch = folder.parent / f"{folder.name}-scratch"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        builder = Tiny(data_dir=scratch, file_format="array_record")
    prepare(builder)
    shutil.move(str(scratch / "tiny" / "1.0.0"), str(folder / version))
    return folder / version
