"""The code in the README runs, in order, in one namespace; so do the examples in docstrings."""

import doctest
import importlib
import pathlib
import pkgutil
import re

import pytest

import ntk_train

ROOT = pathlib.Path(__file__).parent.parent
FENCE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_code_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text()
    blocks = FENCE.findall(text)
    assert blocks
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert list(tmp_path.glob("**/events.out.tfevents*")), "the example writes for TensorBoard"


def test_files_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\(([^)#:]+)\)", text)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


MODULES = [
    module.name
    for module in pkgutil.walk_packages(ntk_train.__path__, "ntk_train.")
    if module.name != "ntk_train.main"
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
