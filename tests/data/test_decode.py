import io

import numpy as np
import pytest
from PIL import Image

from ntk_train.data import Normalization
from ntk_train.data.decode import REDUCED, EncodedImage, flip, look_up, resize
from tests.data.archives import photo


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def by_pillow(content, reduced=1):
    image = Image.open(io.BytesIO(content))
    if reduced > 1:
        image.draft("RGB", (image.width // reduced, image.height // reduced))
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("reduced", [1, *REDUCED])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_has_the_pixels_that_pillow_finds(reduced, mode):
    content = encoded(Image.fromarray(noise(83, 121, 3)).convert(mode), quality=90)
    image = EncodedImage(content)
    assert (image.width, image.height) == (121, 83)
    np.testing.assert_array_equal(image.pixels(reduced), by_pillow(content, reduced))


def test_a_photo_that_says_it_is_turned_stays_as_it_is():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    content = encoded(Image.fromarray(noise(20, 30, 3)), exif=exif)
    np.testing.assert_array_equal(EncodedImage(content).pixels(), by_pillow(content))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_other_formats_come_whole(mode):
    content = encoded(Image.fromarray(noise(30, 40, 3)).convert(mode), "PNG")
    np.testing.assert_array_equal(EncodedImage(content).pixels(2), by_pillow(content))


@pytest.mark.parametrize("reduced", [1, 2])
def test_a_jpeg_that_is_cut_off_is_an_error(reduced):
    content = photo(0, 200, 150)
    for length in (len(content) // 2, len(content) - 20):
        with pytest.raises(OSError, match="truncated"):
            EncodedImage(content[:length]).pixels(reduced)


@pytest.mark.parametrize(("height", "width"), [(7, 9), (16, 16), (15, 24), (40, 33), (100, 17)])
def test_resizing_keeps_means_of_smooth_images(height, width):
    y, x = np.meshgrid(np.arange(height) / height, np.arange(width) / width, indexing="ij")
    image = np.stack([200 * y, 200 * x, 100 * (x + y)], -1).astype(np.uint8)
    # A ramp from 0 to 200 stays one, whatever the sizes.
    centres = (np.arange(8) + 0.5) / 8
    got = resize(image, 8).astype(float)
    assert got.shape == (8, 8, 3)
    step = 200 / min(height, width)
    assert np.abs(got[..., 0] - 200 * centres[:, None]).max() <= step
    assert np.abs(got[..., 1] - 200 * centres[None]).max() <= step


def test_no_pixel_is_left_out_where_an_image_shrinks():
    image = np.zeros((64, 96, 3), np.uint8)
    plain = resize(image, 16)
    for y, x in ((0, 0), (13, 50), (30, 7), (63, 95)):
        image[y, x] = 255
        assert resize(image, 16).astype(int).sum() > plain.sum()
        image[y, x] = 0


def test_resizing_to_the_same_size_changes_nothing():
    np.testing.assert_array_equal(resize(noise(12, 12, 3), 12), noise(12, 12, 3))


def test_flip_is_that_of_numpy():
    np.testing.assert_array_equal(flip(noise(5, 8, 3)), noise(5, 8, 3)[:, ::-1])


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_looking_up_is_normalising(channels):
    normalization = Normalization((0.2, 0.5, 0.7)[:channels], (0.1, 0.2, 0.4)[:channels])
    out = np.zeros((3, 6, 7, channels), np.float32)
    pixels = noise(6, 14, channels)[:, ::2]
    look_up(pixels, normalization.table(channels), out[1])
    np.testing.assert_array_equal(out[1], normalization(np.ascontiguousarray(pixels)))
    assert not out[[0, 2]].any()
