import io

import numpy as np
import pytest
from PIL import Image

from ntk_train.data.images import PadCrop, ResizedCrop, random_box, shrink
from tests.data.archives import photo


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def test_pad_crop_shifts_and_flips():
    image = np.arange(1, 13, dtype=np.uint8).repeat(12).reshape(12, 12)
    image = np.stack([image, image.T, image], -1)
    content, crop = encoded(image), PadCrop(size=12, pad=2)
    np.testing.assert_array_equal(crop.evaluate(content), image)
    padded = np.pad(image, [(2, 2), (2, 2), (0, 0)])
    possible = {
        padded[i : i + 12, j : j + 12][:, ::step].tobytes()
        for i in range(5)
        for j in range(5)
        for step in (1, -1)
    }
    rng = np.random.default_rng(0)
    drawn = {np.ascontiguousarray(crop.augment(content, rng)).tobytes() for _ in range(600)}
    assert drawn == possible  # all 50, and nothing else


def test_random_box_is_inside_with_area_and_aspect_in_range(rng):
    for width, height in ((500, 375), (375, 500), (64, 64)):
        boxes = np.array([random_box(width, height, rng) for _ in range(2000)])
        left, top, w, h = boxes.T
        assert left.min() >= 0
        assert top.min() >= 0
        assert (left + w).max() <= width
        assert (top + h).max() <= height
        area, aspect = w * h / (width * height), w / h
        assert area.min() > 0.07
        assert area.max() > 0.9
        assert aspect.min() > 0.70
        assert aspect.max() < 1.40
        assert left.min() == 0
        assert (left + w).max() == width


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000)])
def test_random_box_of_a_stripe_is_in_its_centre(width, height, rng):
    left, top, w, h = random_box(width, height, rng)
    assert 3 / 4 - 0.1 <= w / h <= 4 / 3 + 0.1
    assert abs(left - (width - w) / 2) <= 1
    assert abs(top - (height - h) / 2) <= 1


@pytest.mark.parametrize(("width", "height"), [(500, 375), (2000, 1500), (100, 90)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_evaluation_is_resize_then_centre_crop(width, height, kind):
    content = photo(3, width, height, kind)
    got = ResizedCrop(size=56, resize=64).evaluate(content)
    image = Image.open(io.BytesIO(content))
    scale = 64 / min(width, height)
    resized = image.resize((round(width * scale), round(height * scale)), 2)
    left, top = (resized.width - 56) // 2, (resized.height - 56) // 2
    expected = np.asarray(resized.crop((left, top, left + 56, top + 56)))
    assert got.shape == expected.shape == (56, 56, 3)
    # The photo is smooth; what remains is half a pixel of shift and a JPEG read at reduced size.
    assert np.abs(got.astype(int) - expected).mean() < 2


def test_random_crop_shows_the_box_that_was_drawn():
    content, crop = photo(5, 640, 480), ResizedCrop(size=32)
    image = Image.open(io.BytesIO(content))
    flips = 0
    for seed in range(40):
        got = crop.augment(content, np.random.default_rng(seed)).astype(int)
        left, top, w, h = random_box(640, 480, np.random.default_rng(seed))
        plain = image.resize((32, 32), 2, (left, top, left + w, top + h))
        errors = [np.abs(got[:, ::step] - np.asarray(plain)).mean() for step in (1, -1)]
        assert min(errors) < 2
        flips += errors[1] < errors[0]
    assert 8 <= flips <= 32


def test_grey_images_become_rgb():
    grey = np.full((40, 30), 77, np.uint8)
    image = ResizedCrop(size=8).evaluate(encoded(grey, "JPEG"))
    np.testing.assert_array_equal(image, np.full((8, 8, 3), 77))


def test_shrink_averages_over_areas(rng):
    image = rng.integers(0, 256, (168, 252, 3), np.uint8)
    got = shrink(encoded(image), 84)
    expected = image.reshape(84, 2, 84, 3, 3).mean((1, 3))
    assert np.abs(got - expected).max() <= 1.01  # it rounds after each axis
    assert shrink(photo(0, 20, 200), 84).shape == (84, 84, 3)
