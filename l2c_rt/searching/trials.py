"""Whole runs by candidate schedules, beside full runs from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from l2c_rt.comparison.runs import require_finite
from l2c_rt.regression.cached_walk import (
    CachedWalk,
    FittingPredictor,
    FixedPredictor,
    Predictor,
)
from l2c_rt.regression.calibration_runs import CalibrationRuns
from l2c_rt.regression.fits import CARRIES, Fits
from l2c_rt.regression.judgement import log_error
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions
from l2c_rt.searching.columns import Array, BoolArray

HISTORY = 5
"""Values that a prediction is made of."""

PLACES = 16
"""Evaluations, at most, that are reused alone to see what an error there does in the end."""

RUNS = 3
"""Those that candidates are judged by; their predictions are fitted on the first, which then does
not judge.  One run of a few images may take the worse candidate."""


@dataclass(slots=True)
class Trials:
    """Runs of one model; with `predicts` reused branches are predicted by a fit of their own."""

    runs: CalibrationRuns
    predicts: bool
    timesteps: tuple[float, ...] | None = None
    _full: list[list[Tensor]] = field(default_factory=list)

    def begin(self) -> None:
        """The full runs."""
        program = self.runs.bound_model.program
        compute = np.ones((self.runs.steps, len(program.branches)), np.bool_)
        for i in range(RUNS):
            self.timesteps, end = self._run(i, FixedPredictor(self.schedule(compute)))
            require_finite("search", end)
            self._full.append(end)

    def errors(self, compute: BoolArray) -> Iterator[float]:
        """The log error in the end of each run that nothing was fitted on, one after the other.

        Shapes: compute [S, K].
        """
        predictions = None
        if self.predicts:
            fits = Fits(compute, HISTORY, 1, CARRIES[0])
            self._run(0, FittingPredictor(fits))
            predictions = fits.predictions()
        predictor = FixedPredictor(self.schedule(compute, predictions))
        for i in range(int(self.predicts), RUNS):
            yield self._error_of(i, predictor)

    def weights(
        self, errors: Array, costs: Array, reuse: float, progress: Callable[[], None]
    ) -> Array:
        """By how much an error at each evaluation counts, in logarithms: what the run ends in where
        one evaluation reuses branches, over what `errors` say of it; between places interpolated.

        First of its cheapest branches, as many as half of the evaluations would have to reuse, then
        of all: more say more, and add up less.
        Shapes: errors [S, K, A], costs [K] -> [2, S].
        """
        shares = sorted({min(1.0, 2 * reuse), 1.0})
        logs = [self._counts(errors, costs, share, progress) for share in shares]
        return np.stack([logs[0], logs[-1]])

    def _counts(
        self, errors: Array, costs: Array, share: float, progress: Callable[[], None]
    ) -> Array:
        """Of one evaluation that reuses so much.  Shapes: -> [S]."""
        steps, branches, _ = errors.shape
        places = np.linspace(1, steps - 1, min(PLACES, steps - 1)).round().astype(int)
        logs = []
        for s in places:
            order = np.argsort(errors[s, :, 0] / costs, kind="stable")
            limit = share * costs.sum() * (1 + 1e-9)
            reused = order[: max(1, int(np.searchsorted(np.cumsum(costs[order]), limit, "right")))]
            compute = np.ones((steps, branches), np.bool_)
            compute[s, reused] = False
            logs.append(self._seen_error(compute) - np.log(max(errors[s, reused, 0].sum(), 1e-300)))
            progress()
        counts: Array = np.interp(np.arange(steps), places, np.subtract(logs, max(logs)))
        return counts

    def _seen_error(self, compute: BoolArray) -> float:
        """That of the run that the predictions are fitted on."""
        predictor: Predictor = FixedPredictor(self.schedule(compute))
        if self.predicts:
            predictor = FittingPredictor(Fits(compute, HISTORY, 1, 0.0))
        return self._error_of(0, predictor)

    def schedule(self, compute: BoolArray, predictions: Predictions | None = None) -> CacheSchedule:
        """Of the model's branches."""
        names = self.runs.bound_model.program.branch_names
        return CacheSchedule(compute, names, predictions=predictions)

    def _error_of(self, i: int, predictor: Predictor) -> float:
        return log_error(self._run(i, predictor)[1], self._full[i])

    def _run(self, i: int, predictor: Predictor) -> tuple[tuple[float, ...] | None, list[Tensor]]:
        return self.runs.run(i, CachedWalk(self.runs.bound_model, predictor), lambda *_: None)
