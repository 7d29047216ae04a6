import json
import time

import pytest

from ntk_train.data import DATASETS, load_dataset, prepared
from ntk_train.data.prepared import NAMES_WITHOUT_FILES, RECIPES, NotPreparedError, find

BY_RECIPE = sorted(set(DATASETS) - set(NAMES_WITHOUT_FILES))


def entry(root, path, file_format="array_record"):
    folder = root / path
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"fileFormat": file_format}))
    return folder


def test_every_dataset_has_a_recipe_or_needs_none():
    assert set(DATASETS) == set(NAMES_WITHOUT_FILES) | {name.split("/")[0] for name in RECIPES}


@pytest.mark.parametrize("name", BY_RECIPE)
def test_a_missing_dataset_says_at_once_what_to_do(name, tmp_path):
    start = time.monotonic()
    with pytest.raises(NotPreparedError) as caught:
        load_dataset(name, data_dir=tmp_path)
    assert time.monotonic() - start < 5
    text = str(caught.value)
    recipe = RECIPES[name]
    assert f"The dataset {name!r} is not in {tmp_path}/{recipe.tfds_name}" in text
    assert f"ntk-train data prepare {name} --data_dir={tmp_path}" in text
    assert f"{recipe.prepared:g} GiB" in text
    for file in (*recipe.manual, *recipe.optional):
        assert file in text
    assert ("--manual_dir" in text) == bool(recipe.manual)


def test_the_newest_version_in_the_right_format_is_found(tmp_path, monkeypatch):
    entry(tmp_path, "cifar10/3.0.2")
    newest = entry(tmp_path, "cifar10/3.0.10")
    entry(tmp_path, "cifar10/4.0.0", "tfrecord")
    assert find("cifar10", tmp_path) == find("cifar2", tmp_path) == newest
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert find("cifar10") == newest
    assert find("cifar10", str(tmp_path)) == newest


def test_another_format_is_named(tmp_path):
    entry(tmp_path, "cifar10/3.0.2", "tfrecord")
    with pytest.raises(NotPreparedError, match=r"'tfrecord'.*expected 'array_record'.*again"):
        find("cifar10", tmp_path)


def test_an_interrupted_preparation_is_not_taken(tmp_path):
    entry(tmp_path, "cifar10/incomplete.ABC_3.0.2")
    with pytest.raises(NotPreparedError):
        find("cifar10", tmp_path)


def test_an_unknown_name_lists_names():
    with pytest.raises(ValueError, match=r"Unknown dataset to prepare 'cifar'.*'cifar10'"):
        prepared.recipe_of("cifar")
