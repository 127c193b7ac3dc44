"""What runs so far say of every cell that a schedule reuses."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from l2c_rt.regression.least_squares import Array, fitted
from l2c_rt.schedule.predictions import Predictions

FOLDS = 4
"""Sets of runs that are held out of each other's fits, at most."""

CARRIES = (1.0, 0.0)
"""Shares of what was missed that fits make up for; whole runs say which is better.

Errors of a branch add up in the latents, step by step; a prediction that leans the other way by
what the ones before it missed cancels them, as noise shaping does, where reuse is not too long.
"""

Cell = tuple[int, int]
"""An evaluation and a branch."""


@dataclass(slots=True)
class Fits:
    """Sums over runs, of bounded size.  `carry` is the share of what earlier predictions missed by
    that a prediction makes up for.  Shapes: compute [S, K]; grams [S, K, folds, m + 1, m + 1] as
    `fitted` takes them, m = history."""

    compute: npt.NDArray[np.bool_]
    history: int
    folds: int
    carry: float
    grams: Array = field(init=False)

    def __post_init__(self) -> None:
        size = self.history + 1
        self.grams = np.zeros((*self.compute.shape, self.folds, size, size))

    def sources(self, cell: Cell) -> list[int]:
        """The evaluations whose values a cell is predicted from, newest first."""
        return list(range(cell[0] - 1, -1, -1))[: self.history]

    def add(self, cell: Cell, fold: int, gram: Array) -> None:
        """Take in what one call has shown.  Shapes: gram [n + 1, n + 1] of n sources."""
        self.grams[cell][fold][np.ix_(*[self._index(len(gram) - 1)] * 2)] += gram

    def coefficients(self, cell: Cell) -> Array | None:
        """Those of the cell's sources, or None where it is reused plainly."""
        index = self._index(len(self.sources(cell)))
        return fitted(self.grams[cell][:, index][:, :, index])

    def predictions(self) -> Predictions:
        """What stands for the reused branches."""
        terms = {}
        for s, k in np.argwhere(~self.compute).tolist():
            coefficients = self.coefficients((s, k))
            if coefficients is not None:
                terms[s, k] = list(zip(self.sources((s, k)), coefficients.tolist(), strict=True))
        steps, branches = self.compute.shape
        return Predictions.from_terms(steps, branches, terms)

    def _index(self, sources: int) -> list[int]:
        return [*range(sources), self.history]
