"""Made-up photos, and data sets of them in the formats of TFDS.

TFDS wants a builder in a module with a name, so they are not in the benchmark's own file.
"""

import io
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np


def photo(seed: int) -> bytes:
    """A JPEG whose size and spectrum are like those of a photo: noise of several scales."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    pixels = np.full((375, 500, 3), 128.0)
    for side, amplitude in ((6, 60), (24, 30), (96, 16), (375, 7)):
        noise = rng.uniform(0, 255, (side, side * 4 // 3, 3)).astype(np.uint8)
        scaled = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
        pixels += (np.asarray(scaled) - 127.5) * (amplitude / 64)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def prepare(photos: list[bytes], folder: str, file_format: str) -> pathlib.Path:
    """A data set of the photos in that format; returns its folder."""
    import tensorflow_datasets as tfds

    class Photos(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        """The made-up photos."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(encoding_format="jpeg"),
                        "label": tfds.features.ClassLabel(num_classes=10),
                    }
                )
            )

        def _split_generators(self, dl_manager: Any) -> Any:  # noqa: ARG002
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[Any]:
            for key, content in enumerate(photos):
                yield key, {"image": io.BytesIO(content), "label": key % 10}

    builder = Photos(data_dir=f"{folder}/{file_format}", file_format=file_format)
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)
