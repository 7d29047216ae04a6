"""The one table of primitives: how a weight meets data there, or passes. See README.md."""

from ntk_train.rules.checked import factors_of as factors_of
from ntk_train.rules.rule import Factors as Factors
from ntk_train.rules.rule import Rule as Rule
from ntk_train.rules.rule import Scale as Scale
from ntk_train.rules.table import operations as operations
from ntk_train.rules.table import rule_of as rule_of
