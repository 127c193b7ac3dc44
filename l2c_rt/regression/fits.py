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
    that a prediction makes up for.  Shapes: compute [S, K]; grams [S, K, lanes, folds, m + 1,
    m + 1] as `fitted` takes them, m = history."""

    compute: npt.NDArray[np.bool_]
    history: int
    folds: int
    carry: float
    lanes: int = 1
    grams: Array = field(init=False)

    def __post_init__(self) -> None:
        size = self.history + 1
        self.grams = np.zeros((*self.compute.shape, self.lanes, self.folds, size, size))

    def sources(self, cell: Cell) -> list[int]:
        """The evaluations whose values a cell is predicted from, newest first."""
        return list(range(cell[0] - 1, -1, -1))[: self.history]

    def add(self, cell: Cell, lane: int, fold: int, gram: Array) -> None:
        """Take in what one call has shown.  Shapes: gram [n + 1, n + 1] of n sources."""
        self.grams[cell][lane, fold][np.ix_(*[self._index(len(gram) - 1)] * 2)] += gram

    def coefficients(self, cell: Cell, lane: int = 0) -> Array | None:
        """Those of the cell's sources, or None where it is reused plainly."""
        index = self._index(len(self.sources(cell)))
        return fitted(self.grams[cell][lane][:, index][:, :, index])

    def predictions(self) -> Predictions:
        """What stands for the reused branches; of one lane where no call has shown another."""
        lanes = self.lanes if self.grams[:, :, 1:].any() else 1
        sources = np.full((*self.compute.shape, self.history), -1, np.int16)
        coefficients = np.zeros((lanes, *sources.shape))
        for s, k in np.argwhere(~self.compute).tolist():
            of_lanes = [self.coefficients((s, k), lane) for lane in range(lanes)]
            if all(numbers is None for numbers in of_lanes):
                continue
            before = self.sources((s, k))
            sources[s, k, : len(before)] = before
            for lane, numbers in enumerate(of_lanes):
                plain = np.eye(len(before))[0]
                coefficients[lane, s, k, : len(before)] = plain if numbers is None else numbers
        width = int((sources >= 0).sum(axis=2).max())
        return Predictions(sources[..., :width], coefficients[..., :width])

    def shared(self) -> Fits:
        """The same sums, of all lanes together."""
        fits = Fits(self.compute, self.history, self.folds, self.carry)
        fits.grams[...] = self.grams.sum(axis=2, keepdims=True)
        return fits

    def _index(self, sources: int) -> list[int]:
        return [*range(sources), self.history]
