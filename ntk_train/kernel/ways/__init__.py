"""Ways to contract the Jacobian of one parameter, a file each. See README.md."""

from ntk_train.kernel.ways.full_gram import FullGram as FullGram
from ntk_train.kernel.ways.half_gram import HalfGram as HalfGram
from ntk_train.kernel.ways.identity import Identity as Identity
from ntk_train.kernel.ways.jacobian import Jacobian as Jacobian
from ntk_train.kernel.ways.transposed import Transposed as Transposed
from ntk_train.kernel.ways.way import Cotangents as Cotangents
from ntk_train.kernel.ways.way import ProductRows as ProductRows
from ntk_train.kernel.ways.way import Setting as Setting
from ntk_train.kernel.ways.way import Sizes as Sizes
from ntk_train.kernel.ways.way import Uses as Uses
from ntk_train.kernel.ways.way import Way as Way
