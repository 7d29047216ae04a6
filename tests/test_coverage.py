"""docs/coverage.md says what the bank covers today."""

import re

import pytest

from tests import coverage
from tests.bank import BANK

# Under these names in every version of JAX.
STABLE = {
    *("add_any", "broadcast_in_dim", "complex", "concatenate", "cond", "conv_general_dilated"),
    *("convert_element_type", "copy", "cumsum", "div", "dot_general", "dynamic_slice"),
    *("dynamic_update_slice", "fft", "gather", "imag", "mul", "neg", "pad", "real", "reduce_sum"),
    *("reduce_window_sum", "reshape", "rev", "scan", "scatter", "scatter-add", "select_n"),
    *("slice", "split", "squeeze", "sub", "transpose", "triangular_solve"),
}
BEFORE = {"custom_jvp_call", "custom_vjp_call", "exp", "sin", "sort", "tanh", "while"}


@pytest.fixture(scope="module")
def counts():
    return coverage.table()


def test_cases_exercise_what_networks_are_made_of(counts):
    assert {name for name, column in counts if column == "activation passes"} >= STABLE
    assert {name for name, column in counts if column == "weight meets data, factored"} == {
        "conv_general_dilated",
        "dot_general",
        "gather",
        "scan",  # with one of those inside
    }
    assert coverage.before_linearisation().keys() >= BEFORE


def test_the_page_is_up_to_date(counts):
    text = coverage.PAGE.read_text()
    assert f"from the {len(BANK)} cases" in text, "run python -m tests.coverage"
    if f"with JAX {coverage.version()} " not in text:
        return  # other versions have other primitives
    cells = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `")]
    stated = {
        (re.sub("[` ]", "", name), column)
        for name, *numbers in cells
        for column, number in zip(coverage.COLUMNS, numbers, strict=True)
        if number.strip()
    }
    assert stated == set(counts), "run python -m tests.coverage"
