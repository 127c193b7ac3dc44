"""`search`: a schedule for a model in minutes, by measured errors, without training."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn
from tqdm import tqdm

from l2c_rt.adapters.branch_forward import frozen
from l2c_rt.adapters.model_fingerprint import model_fingerprint
from l2c_rt.arguments import check_arguments, whole
from l2c_rt.comparison.loop_runs import Loop
from l2c_rt.regression.calibration_runs import CalibrationRuns, described
from l2c_rt.regression.fit_corrector import fit_corrector
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.checks import MAX_STEPS
from l2c_rt.searching.candidates import FIRST, Best, try_next
from l2c_rt.searching.checkpoint import Checkpoint
from l2c_rt.searching.columns import Array
from l2c_rt.searching.sensitivity import Sensitivity, smoothed
from l2c_rt.searching.trials import HISTORY, PLACES, Trials
from l2c_rt.searching.weightings import Measured

CALIBRATION_RUNS = 3
DECIBELS = -10 / math.log(10)
"""Times the logarithm of a relative squared error."""


def search(
    model: nn.Module,
    loop: Loop | None = None,
    *,
    steps: int,
    reuse: float,
    minutes: float = 1.0,
    corrector: str | None = "fitted",
    ages: int = 4,
    batch_size: int = 5,
    seed: int = 0,
    calls_per_step: int = 1,
    cfg_scale: float | None = None,
    granularity: str = "branch",
    sites: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> CacheSchedule:
    """Find the schedule that reuses `reuse` of the branches' arithmetic at the least error.

    Three full runs with a backward pass each evaluation measure what reusing each branch at each
    age up to `ages` does to the model's output, and up to 14 runs that each reuse some or all
    branches of one evaluation how much that counts in the end.  Dynamic programming finds schedules
    of least sum, by a few weightings of that: by branches, by whole evaluations, and reusing only
    what evaluations in full computed; nine at most, which are tried whatever `minutes` says.  Then
    for `minutes` variants of the best one run whole beside the full run, and the one that ends
    nearest, image by image, in the mean of the runs, is kept.
    With the corrector "fitted" reused branches are predicted, as `fit_corrector` fits them, from
    five values, and a variant is judged in two runs that its predictions were not fitted on; with
    None they are reused plainly, and three runs judge.
    `loop`, `calls_per_step`, `granularity`, `sites`, `batch_size` and `cfg_scale` are those of
    `fit_corrector`.  `out` is a .json file that `compile` takes; until it is done, what is known so
    far lies beside it, and `resume` takes that up.
    Raises TypeError and ValueError as `fit_corrector` does, and for a share that is not in 0..1.
    """
    check_arguments(
        "search", loop=loop, steps=steps, reuse=reuse, minutes=minutes, ages=ages, seed=seed,
        batch_size=batch_size, calls_per_step=calls_per_step, cfg_scale=cfg_scale, out=out,
        resume=resume, progress=progress,
    )  # fmt: skip
    _check(steps, reuse, corrector, ages)
    bound_model = described("search", model, loop, sites, granularity)
    runs = CalibrationRuns(bound_model, loop, steps, calls_per_step, seed, batch_size, cfg_scale)
    options = {"steps": steps, "reuse": reuse, "corrector": corrector, "ages": ages,
               "batch_size": batch_size, "seed": seed, "cfg_scale": cfg_scale}  # fmt: skip
    checkpoint = Checkpoint.of(out, options, model_fingerprint(model))
    with frozen(model):
        known = Search(Trials(runs, corrector is not None), reuse, ages, progress)
        schedule = known.run(60.0 * minutes, checkpoint, resume)
    if corrector is not None:
        schedule = fit_corrector(
            model, schedule, loop, history=HISTORY, batch_size=batch_size, seed=seed,
            calls_per_step=calls_per_step, cfg_scale=cfg_scale, granularity=granularity,
            sites=sites, progress=progress,
        ).fit  # fmt: skip
    if out is not None:
        schedule.save(os.fspath(out))
        checkpoint.remove()
    return schedule


@dataclass(slots=True)
class Search:
    """One search; see `search`."""

    trials: Trials
    reuse: float
    ages: int
    progress: bool

    def run(self, seconds: float, checkpoint: Checkpoint, resume: bool) -> CacheSchedule:
        """The best schedule after so many seconds, those of an earlier part included."""
        self.trials.begin()
        state = checkpoint.load(self.shape, self.costs) if resume else None
        measured, best, spent = state or (self._measured(), Best(), 0.0)
        began = time.monotonic() - spent
        with tqdm(total=round(seconds), desc="search", disable=not self.progress) as bar:
            while best.tried < len(FIRST) or time.monotonic() - began < seconds:
                best = try_next(best, measured, self.reuse, self._runs.seed, self.trials.errors)
                spent = time.monotonic() - began
                checkpoint.save(measured, best, spent)
                bar.set_postfix(tried=best.tried, decibels=f"{DECIBELS * best.error:.1f}",
                                refresh=False)  # fmt: skip
                bar.update(min(round(spent), bar.total) - bar.n)
        assert best.compute is not None
        return replace(
            self.trials.schedule(best.compute),
            timesteps=self.trials.timesteps,
            fingerprint=checkpoint.fingerprint,
            calls_per_step=self._runs.calls_per_step,
            granularity="block" if self._runs.bound_model.sites[0].is_block else "branch",
            sampler=self._runs.sampler,
            source=f"l2c_rt.search, seed {self._runs.seed}, {best.tried} candidates",
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the errors, [S, K, A]."""
        return self._runs.steps, len(self._runs.bound_model.program.branches), self.ages

    @property
    def costs(self) -> Array:
        """Of every branch, 1 on average."""
        macs = [max(b.macs, 1) for b in self._runs.bound_model.program.branches]
        costs: Array = np.asarray(macs, np.float64) / np.mean(macs)
        return costs

    @property
    def _runs(self) -> CalibrationRuns:
        return self.trials.runs

    def _measured(self) -> Measured:
        """What reusing a branch at an age does to what a run ends in, as far as errors add up."""
        runs, trials = self._runs, self.trials
        watched = Sensitivity(
            runs.bound_model, runs.steps, self.ages, runs.seed, predicts=trials.predicts
        )
        total = CALIBRATION_RUNS * runs.steps + min(PLACES, 2 * (runs.steps - 1))
        with tqdm(total=total, desc="measure", disable=not self.progress) as bar:
            for i in range(CALIBRATION_RUNS):
                runs.run(i, watched, lambda *_: _advance(bar))
            errors = smoothed(watched.errors)
            weights = trials.weights(errors, self.costs, self.reuse, lambda: _advance(bar))
        return Measured(errors, weights, self.costs)


def _advance(bar: tqdm[Any]) -> None:
    bar.update()


def _check(steps: int, reuse: float, corrector: str | None, ages: int) -> None:
    whole(2, MAX_STEPS)("search: steps", steps)
    most = 1 - 1 / steps
    if not 0 <= reuse <= most * ages / (ages + 1):
        raise ValueError(
            f"search: reuse is {reuse!r:.40}, wanted a share in 0..{most * ages / (ages + 1):.3f} "
            f"for {steps} steps and ages={ages}"
        )
    if corrector not in (None, "fitted"):
        raise ValueError(f'search: corrector is {corrector!r:.40}, wanted "fitted" or None')
