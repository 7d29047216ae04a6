"""Which kernels may be compared, and that the refusal names both."""

import dataclasses

import pytest

import ntk_train
from ntk_train import ConventionError
from ntk_train.monitor.convention import Convention as OfTheHook
from ntk_train.spectrum import Convention, check_comparable

CONVENTION = Convention(
    function="f",
    outputs="full",
    examples="independent",
    parameters="all 3 leaves",
    num_parameters=100,
    num_examples=3,
    num_outputs=1,
    param_dtype="float32",
    output_dtype="float32",
    kernel_dtype="float32",
    precision="highest",
    implementation="structured",
)


def changed(**fields):
    return dataclasses.replace(CONVENTION, **fields)


def test_it_is_the_hooks():
    assert OfTheHook is Convention
    assert ntk_train.Convention is Convention


def test_implementations_may_differ():
    check_comparable(CONVENTION, changed(implementation="jacobian_contraction"))
    check_comparable(None, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"outputs": "trace"},
        {"examples": "coupled"},
        {"num_examples": 4},
        {"num_outputs": 2},
        {"kernel_dtype": "float64"},
        {"precision": "default"},
    ],
)
@pytest.mark.parametrize("same_network", [True, False])
def test_what_must_agree_in_any_case(fields, same_network):
    ((name, value),) = fields.items()
    with pytest.raises(ConventionError) as caught:
        check_comparable(CONVENTION, changed(**fields), same_network=same_network)
    assert f"{name}={getattr(CONVENTION, name)!r}" in str(caught.value)
    assert f"{name}={value!r}" in str(caught.value)


@pytest.mark.parametrize("fields", [{"function": "g"}, {"parameters": "1 leaf"}])
def test_what_is_the_network_may_differ_between_networks(fields):
    check_comparable(CONVENTION, changed(**fields), same_network=False)
    with pytest.raises(ConventionError):
        check_comparable(CONVENTION, changed(**fields))


def test_none_compares_with_none_alone():
    for pair in ((None, CONVENTION), (CONVENTION, None)):
        with pytest.raises(ConventionError, match="state it for both"):
            check_comparable(*pair)
