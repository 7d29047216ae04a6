"""The operations of random programs, by family; importing them registers them.

None compares computed numbers for equality: XLA may compute them twice, and differently rounded.
"""

from tests.programs.ops import complex_numbers as complex_numbers
from tests.programs.ops import control as control
from tests.programs.ops import elementwise as elementwise
from tests.programs.ops import layers as layers
from tests.programs.ops import lookups as lookups
from tests.programs.ops import views as views
