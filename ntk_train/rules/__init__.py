"""For each equation in which a weight meets data: its Jacobian as small factors. See README.md."""

# Imported for their registration.
from ntk_train.rules import convolution as convolution
from ntk_train.rules import dot_general as dot_general
from ntk_train.rules import gather as gather
from ntk_train.rules.registry import Factors as Factors
from ntk_train.rules.registry import factors_of as factors_of
