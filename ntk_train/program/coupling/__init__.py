"""Whether an output of one example depends on another example, by its program alone.

f is traced on a batch of a few examples, and no number is computed:

walk.py        from equation to equation, into calls, branches and loops: `find_coupling`
dependence.py  on which examples each entry of an array depends
registry.py    how each primitive carries that: rules in entries, shapes, lookups and products
indices.py     the values of indices, as far as they are known

What a primitive without a rule does is unknown, as is an index that is not known: of such outputs
nothing is said. A coupling that is found is there, except that what is computed and then cut off
or multiplied by zero counts as used.
"""

# Imported for their registration.
from ntk_train.program.coupling import entries as entries
from ntk_train.program.coupling import lookups as lookups
from ntk_train.program.coupling import products as products
from ntk_train.program.coupling import shapes as shapes
from ntk_train.program.coupling.walk import EXAMPLES as EXAMPLES
from ntk_train.program.coupling.walk import dependences_of as dependences_of
from ntk_train.program.coupling.walk import find_coupling as find_coupling
