"""What the errors of a search are multiplied by, evaluation by evaluation: a family, its members.

How much an error at an evaluation counts in the end is measured in two ways, which say much the
same, each with noise of its own; and where predictions make up for what was missed before, an early
error counts less than either says.  So candidates are planned by several members, and whole runs
choose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2c_rt.searching.columns import Array


@dataclass(frozen=True, slots=True)
class Measured:
    """What a search plans from.

    Shapes: errors [S, K, A] by evaluation, branch and age; weights [2, S], logarithms, as runs show
    them that reuse the cheapest branches of one evaluation, and all of it; costs [K].
    """

    errors: Array
    weights: Array
    costs: Array


@dataclass(frozen=True, slots=True)
class Weighting:
    """One of the family: `cheap` is the part of the first weights, and the rest the second's;
    `power` that of both; `growth` that of the age.  A branch that is reused twice running starts
    from what is off already."""

    cheap: float
    power: float
    growth: float

    def of(self, measured: Measured) -> Array:
        """The errors as they count.  Shapes: [S, K, A]."""
        logs = self.power * (np.array([self.cheap, 1.0 - self.cheap]) @ measured.weights)
        ages = np.arange(1, measured.errors.shape[2] + 1)
        weighted: Array = measured.errors * np.exp(logs)[:, None, None] * ages**self.growth
        return weighted


CHEAP = Weighting(1.0, 1.0, 1.0)
ALL = Weighting(0.0, 1.0, 1.0)
EVEN = Weighting(0.5, 0.0, 0.0)
"""All evaluations count alike, and ages as measured."""

POWERS = (0.0, 0.5, 1.0)
GROWTHS = (0.0, 0.5, 1.0)


def drawn(random: np.random.Generator) -> Weighting:
    """Any member of the family."""
    return Weighting(random.random(), float(random.choice(POWERS)), float(random.choice(GROWTHS)))
