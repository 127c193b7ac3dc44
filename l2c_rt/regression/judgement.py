"""Whole held-out runs by several predictors of one schedule: the one that ends nearest is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from l2c_rt.calibration.runs import Progress
from l2c_rt.comparison.runs import require_finite
from l2c_rt.regression.cached_walk import CachedWalk, FixedPredictor, SeenOrder
from l2c_rt.regression.calibration_runs import CalibrationRuns
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions

LEAST_ERROR = 1e-20
"""Of a relative squared error whose logarithm is taken."""


def judged(
    calibration: CalibrationRuns, fits: Sequence[CacheSchedule], runs: Sequence[int],
    progress: Progress, seen: SeenOrder | None = None,
) -> CacheSchedule:  # fmt: skip
    """That of some fits of one schedule, the first half of the way from plain reuse, and plain
    reuse that ends nearest to the full runs of these numbers, in the mean of `log_error`.

    Errors of single branches say nothing of how they add up over a run; this does.  One run of a
    few images may take the worse of two.
    """
    full = replace(fits[0], compute=np.ones_like(fits[0].compute), predictions=None)
    less = [replace(fits[0], predictions=_part(fits[0], share)) for share in (0.5, 0.0)]
    candidates = [full, *fits, *less]
    errors = np.zeros((len(runs), len(candidates)))
    reference: list[Tensor] = []
    for i, (run, k) in enumerate(product(runs, range(len(candidates)))):

        def advance(evaluation: int, _: int, i: int = i) -> None:
            progress(i * full.steps + evaluation, errors.size * full.steps)

        calls, predictor = calibration.calls_per_step, FixedPredictor(candidates[k])
        walk = CachedWalk(calibration.bound_model, predictor, calls, seen)
        _, ends = calibration.run(run, walk, advance)
        if not k:
            require_finite("fit_corrector", ends)
            reference = ends
        errors.flat[i] = log_error(ends, reference)
    return candidates[1 + int(np.nanargmin(errors[:, 1:].mean(axis=0)))]


def log_error(ends: Sequence[Tensor], full: Sequence[Tensor]) -> float:
    """The logarithm of the relative squared error, its mean over images: PSNR but for a factor.

    The errors' own mean would be that of the one image that any small change turns into another.
    Shapes: [n, ...] each.
    """
    differences = [a.double() - b.double() for a, b in zip(ends, full, strict=True)]
    errors, norms = _squares(differences), _squares([b.double() for b in full])
    relative = errors / norms.clamp(min=LEAST_ERROR)
    return float((relative + LEAST_ERROR).log().mean())


def _squares(parts: Sequence[Tensor]) -> Tensor:
    """Of each image.  Shapes: [n, ...] each -> [n]; their sum, [1], where they differ in n."""
    squares = [part.reshape(len(part), -1).square().sum(dim=1) for part in parts]
    if len({len(square) for square in squares}) > 1:
        squares = [square.sum(dim=0, keepdim=True) for square in squares]
    return torch.stack(squares).sum(dim=0)


def _part(schedule: CacheSchedule, share: float) -> Predictions:
    """Predictions that share of the way from plain reuse; the first term is the newest value."""
    predictions = schedule.predictions
    assert predictions is not None
    if share == 0:
        return Predictions.from_terms(schedule.steps, schedule.num_branches, {})
    coefficients = share * predictions.coefficients
    if coefficients.shape[3]:
        coefficients[..., 0] += (1 - share) * (predictions.sources[:, :, 0] >= 0)
    return Predictions(predictions.sources, coefficients)
