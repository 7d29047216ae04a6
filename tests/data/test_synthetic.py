import numpy as np
import pytest

from ntk_train.data import load_dataset


def test_images_depend_on_seed_part_and_index_alone():
    arguments = {"image_shape": (5, 4, 2), "num_classes": 3, "train_size": 7, "test_size": 4}
    first, again = (load_dataset("synthetic", **arguments) for _ in range(2))
    assert first.image_shape == (5, 4, 2)
    assert first.num_classes == 3
    assert first.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    images = [part[i]["image"] for part in (first.train, first.test) for i in range(len(part))]
    assert len({image.tobytes() for image in images}) == 11
    for i in reversed(range(7)):
        np.testing.assert_array_equal(again.train[i]["image"], images[i])
        assert again.train[i]["label"] == first.train.labels[i]
    other = load_dataset("synthetic", seed=1, **arguments)
    assert not np.array_equal(other.train[0]["image"], images[0])


def test_uint8_is_the_same_before_normalisation():
    host, device = (load_dataset("synthetic", image_dtype=dtype) for dtype in ("float32", "uint8"))
    image = device.train[3]["image"]
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(device.inputs(image), host.train[3]["image"])
    np.testing.assert_allclose(device.inputs(image), (image / 255 - 0.5) / 0.25, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"image_shape": (3, 3)}, r"image_shape=\(3, 3\); expected \(height"),
        ({"num_classes": 1}, "num_classes=1; expected 2 or more"),
        ({"num_classes": 5, "train_size": 4}, "train_size=4; expected 5 or more"),
        ({"test_size": 0}, "test_size=0; expected 1 or more"),
        ({"image_dtype": "bfloat16"}, "image_dtype='bfloat16'"),
    ],
)
def test_bad_arguments_are_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        load_dataset("synthetic", **arguments)
