"""The one record of options: checked where it is made, and the same for all that take some."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_train import KernelInputError, KernelOperator, NTKHook, certify, explain, ntk
from ntk_train.kernel.auto import REFERENCES
from ntk_train.kernel.options import IMPLEMENTATIONS, MODES, KernelOptions

pytestmark = pytest.mark.usefixtures("without_type_checks")

FIELDS = {field.name: field for field in dataclasses.fields(KernelOptions)}
WRONG = {
    "outputs": "traced",
    "implementation": "fast",
    "batched": "no",
    "precision": "exact",
    "param_filter": "w",
    "per_layer": "w",
    "memory_budget": "4GB",
    "strict": None,
}


def of(function):
    """Keyword arguments of a public function that are options."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each for each in parameters if each.name in FIELDS}


def test_the_kernel_takes_every_option_with_its_default():
    assert {name: each.default for name, each in of(ntk).items()} == {
        name: field.default for name, field in FIELDS.items()
    }


@pytest.mark.parametrize("function", [explain, certify])
def test_defaults_are_those_of_the_kernel(function):
    own = of(function)
    assert own
    assert all(each.default == FIELDS[name].default for name, each in own.items())


def test_every_field_is_checked_where_the_record_is_made():
    assert set(WRONG) == set(FIELDS)
    for name, value in WRONG.items():
        with pytest.raises(KernelInputError, match=f"^{name}"):
            KernelOptions(**{name: value})
        with pytest.raises(KernelInputError, match=f"^{name}"):
            dataclasses.replace(KernelOptions(), **{name: value})


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_has_one_error_wherever_it_is_given(name):
    w = jnp.eye(3)
    f = lambda w, x: jnp.tanh(x @ w)
    with pytest.raises(KernelInputError) as expected:
        KernelOptions(**{name: WRONG[name]})
    given = {name: WRONG[name]}
    calls = [(ntk, lambda: ntk(f, w, w, **given)), (explain, lambda: explain(f, w, w, **given))]
    calls += [(certify, lambda: certify(w, f, w, w, **given))]
    calls += [(NTKHook, lambda: NTKHook(f, w, every_steps=1, **given))]
    if name != "outputs":  # of which an operator has fewer
        calls += [(KernelOperator, lambda: KernelOperator(f, w, w, **given))]
    for function, call in calls:
        if name in of(function):
            with pytest.raises(KernelInputError) as error:
                call()
            assert str(error.value) == str(expected.value), function


def test_fields_are_kept_in_one_plain_form():
    options = KernelOptions(
        outputs=[0, 1],
        batched=np.True_,
        per_layer=np.False_,
        memory_budget=np.float32(4),
        strict=np.True_,
    )
    assert options.batched is True
    assert options.per_layer is False
    assert options.strict is True
    assert type(options.memory_budget) is float
    np.testing.assert_array_equal(options.outputs, [0, 1])
    pair = KernelOptions(outputs=(1, np.array([0, 1]))).outputs
    assert [choice.shape for choice in pair] == [(), (2,)]
    kinds = jax.make_jaxpr(lambda chosen: KernelOptions(outputs=chosen).outputs + 0)
    assert kinds(jnp.arange(3)).out_avals[0].shape == (3,)  # chosen logits may be traced


def test_all_modes_and_implementations_are_taken():
    for mode in MODES:
        assert KernelOptions(outputs=mode).outputs == mode
    for name in ("auto", *IMPLEMENTATIONS):
        assert KernelOptions(implementation=name).implementation == name
    assert set(IMPLEMENTATIONS) == {"structured", *REFERENCES}
