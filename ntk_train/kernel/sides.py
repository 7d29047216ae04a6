"""What the two sides of a kernel are made of, found once for any number of their examples."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from ntk_train._jax import Equation
from ntk_train.program.linear import LinearProgram
from ntk_train.program.liveness import Pass, pass_of
from ntk_train.program.sites import Site, find_sites
from ntk_train.program.unfactored import unfactored_uses


@dataclasses.dataclass(frozen=True, eq=False)
class Sides:
    """The programs of x1 and of x2, and what is found in them.

    Attributes:
      programs: of both sides, one and the same where f and the shapes of an example are.
    """

    programs: tuple[LinearProgram, LinearProgram]

    @functools.cached_property
    def sites(self) -> tuple[Sequence[Site], Sequence[Site]]:
        """Where parameters meet data, on either side."""
        first, second = self.programs
        sites = find_sites(first)
        return sites, sites if second is first else find_sites(second)

    @functools.cached_property
    def parts(self) -> tuple[Mapping[int, Sequence[Sequence[Site]]], ...]:
        """On either side the sites of each leaf that has some, by its parts in order."""
        return tuple(_by_leaf_and_part(sites) for sites in self.sites)

    @functools.cached_property
    def passes(self) -> tuple[Pass, Pass]:
        """What a forward and a backward pass hold, on either side."""
        first, second = self.programs
        found = pass_of(first)
        return found, found if second is first else pass_of(second)

    @functools.cached_property
    def unfactored(self) -> Mapping[int, Sequence[Equation]]:
        """The equations on the side of x1 that contract a leaf without a rule."""
        uses: dict[int, list[Equation]] = {}
        for leaf, equation in unfactored_uses(self.programs[0]):
            uses.setdefault(leaf, []).append(equation)
        return uses


def _by_leaf_and_part(sites: Sequence[Site]) -> dict[int, list[list[Site]]]:
    parts: dict[int, dict[int, list[Site]]] = {}
    for site in sites:
        parts.setdefault(site.view.leaf, {}).setdefault(site.part, []).append(site)
    return {leaf: [own for _, own in sorted(of.items())] for leaf, of in parts.items()}
