"""Cases that every kernel implementation must get right; a known gap is a field of its case.

case.py        what a case is
layers.py      where a parameter can stand in a layer
networks.py    whole models
preconditions.py  what breaks a condition of a shortcut
primitives.py  what a derivative can pass: one case for each linear primitive of JAX
"""

from tests.bank.layers import LAYERS
from tests.bank.networks import NETWORKS
from tests.bank.preconditions import PRECONDITIONS
from tests.bank.primitives import PRIMITIVES

BANK = [*LAYERS, *NETWORKS, *PRECONDITIONS, *PRIMITIVES]
