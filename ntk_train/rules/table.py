"""The one table of primitives. One that is not in it may still be in a program.

Its Jacobian is then a transposition's, and a weight that it passes on its way to data is not cut.
"""

from collections.abc import Mapping
from typing import Any

from jax import lax

from ntk_train._jax import Equation, add_any_p, scan_body, scan_p, unstack_p
from ntk_train.rules import convolution, dot_general, gather, scales
from ntk_train.rules.rule import Rule


def _of_all_iterations(equation: Equation) -> int:
    """The operations of a scan: those of its body, as often as it runs."""
    body, *_ = scan_body(equation)
    return equation.params["length"] * sum(operations(inner) for inner in body.eqns)


RULES: Mapping[Any, Rule] = {
    # A weight meets data.
    lax.conv_general_dilated_p: Rule(
        factors=convolution.factors,
        operations=convolution.operations,
        on_cpu=convolution.on_cpu,
        in_arithmetic=convolution.in_arithmetic,
    ),
    lax.dot_general_p: Rule(
        factors=dot_general.factors,
        operations=dot_general.operations,
        in_arithmetic=dot_general.in_arithmetic,
    ),
    lax.gather_p: Rule(factors=gather.factors, rearranges=True),
    scan_p: Rule(operations=_of_all_iterations),  # the program itself looks into its body
    # A weight is rearranged.
    lax.broadcast_in_dim_p: Rule(rearranges=True, keeps_order=True),
    lax.copy_p: Rule(rearranges=True, keeps_order=True),
    lax.dynamic_slice_p: Rule(rearranges=True),
    lax.reshape_p: Rule(rearranges=True, keeps_order=True),
    lax.rev_p: Rule(rearranges=True),
    lax.slice_p: Rule(rearranges=True),
    lax.split_p: Rule(rearranges=True),
    lax.squeeze_p: Rule(rearranges=True, keeps_order=True),
    lax.transpose_p: Rule(rearranges=True),
    unstack_p: Rule(rearranges=True),
    # A weight is scaled, by a number or, entry by entry, by data.
    lax.convert_element_type_p: Rule(scales=scales.by_nothing, keeps_order=True),
    lax.div_p: Rule(scales=scales.by_the_divisor, entrywise=True),
    lax.mul_p: Rule(scales=scales.by_the_other, entrywise=True),
    lax.neg_p: Rule(scales=scales.by_minus_one),
    lax.sharding_constraint_p: Rule(scales=scales.by_nothing),
    # Entries of several inputs are added, chosen or put beside each other.
    add_any_p: Rule(keeps_order=True, entrywise=True),
    lax.add_p: Rule(keeps_order=True, entrywise=True),
    lax.concatenate_p: Rule(entrywise=True),
    lax.dynamic_update_slice_p: Rule(entrywise=True),
    lax.pad_p: Rule(entrywise=True),
    lax.select_n_p: Rule(entrywise=True),
    lax.sub_p: Rule(entrywise=True),
}
_UNKNOWN = Rule()


def rule_of(equation: Equation) -> Rule:
    """What is known of an equation's primitive: nothing if it is not in the table."""
    return RULES.get(equation.primitive, _UNKNOWN)


def operations(equation: Equation) -> int:
    """Multiplications and additions of an equation, or of its transpose."""
    return rule_of(equation).operations(equation)
