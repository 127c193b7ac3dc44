"""Whole runs by candidate schedules, beside full runs from the same noise."""

from __future__ import annotations

from collections.abc import Callable
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

RUNS = 2
"""The one that a candidate's predictions are fitted on, and the one that it is judged by."""


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

    def error(self, compute: BoolArray) -> float:
        """The log error in the end of a run that nothing was fitted on; of both where nothing is
        fitted.  Shapes: compute [S, K]."""
        if not self.predicts:
            plain = FixedPredictor(self.schedule(compute))
            return float(np.mean([self._error_of(i, plain) for i in range(RUNS)]))
        fits = Fits(compute, HISTORY, 1, CARRIES[0])
        self._run(0, FittingPredictor(fits))
        return self._error_of(1, FixedPredictor(self.schedule(compute, fits.predictions())))

    def weights(
        self, errors: Array, costs: Array, reuse: float, progress: Callable[[], None]
    ) -> Array:
        """By how much an error at each evaluation counts: what the run ends in where one evaluation
        reuses its cheapest branches, over what `errors` say of it; between places interpolated.

        As many branches as half of the evaluations would have to reuse: errors of more of them
        would be too large to add up.
        Shapes: errors [S, K, A], costs [K] -> [S].
        """
        steps, branches, _ = errors.shape
        places = np.unique(np.linspace(1, steps - 1, min(PLACES, steps - 1)).round().astype(int))
        logs = []
        for s in places:
            order = np.argsort(errors[s, :, 0] / costs, kind="stable")
            count = np.searchsorted(np.cumsum(costs[order]), 2 * reuse * costs.sum(), side="right")
            reused = order[: max(1, int(count))]
            compute = np.ones((steps, branches), np.bool_)
            compute[s, reused] = False
            logs.append(self._seen_error(compute) - np.log(max(errors[s, reused, 0].sum(), 1e-300)))
            progress()
        weights: Array = np.exp(np.interp(np.arange(steps), places, np.subtract(logs, max(logs))))
        return weights

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
