"""`fit_corrector`: what stands for every reused branch of a schedule, by least squares."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn
from tqdm import tqdm

from l2c_rt.adapters.branch_forward import frozen
from l2c_rt.adapters.model_fingerprint import model_fingerprint
from l2c_rt.arguments import check_arguments
from l2c_rt.comparison.loop_runs import Loop
from l2c_rt.correctors.fitted import Fitted
from l2c_rt.regression.cached_walk import CachedWalk, FittingPredictor, SeenOrder
from l2c_rt.regression.calibration_runs import CalibrationRuns, described
from l2c_rt.regression.checkpoint import Checkpoint
from l2c_rt.regression.fits import CARRIES, FOLDS, Fits
from l2c_rt.regression.judgement import judged
from l2c_rt.resolve import read_spec, resolve_schedule
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import MAX_LANES

JUDGES = 3
"""Held-out runs whose mean error says which fit is taken."""


def fit_corrector(
    model: nn.Module,
    router: Any,
    loop: Loop | None = None,
    *,
    steps: int | None = None,
    history: int = 3,
    runs: int = 4,
    batch_size: int = 5,
    seed: int = 0,
    calls_per_step: int = 1,
    lanes: bool = False,
    uncond_first: bool | None = None,
    cfg_scale: float | None = None,
    granularity: str | None = None,
    sites: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Fitted:
    """Fit what stands for the branches that a schedule reuses: a corrector for `rt.compile`.

    `router` is what `compile` takes.  Runs cost what uncached ones do: every reused branch is
    computed as well, and its output, with what its last predictions missed, regressed on the last
    `history` values that were used; the prediction is used from there on, as in a cached run.  So
    it goes for `runs` runs, and for as many in which nothing that was missed is made up for.  Each
    run is held out of a fit of the others, and where plain reuse does as well there, it stays.  The
    mean over whole runs of three other seeds by each fit, half of the way, plain reuse, and the
    predictions that the router has, if any, says which is taken: 15 runs or 18.
    Without `loop` the model's published loop runs, `batch_size` images [n, C, H, W] together with
    `cfg_scale`; with it `loop(model, seed)`, `calls_per_step` calls per evaluation.  Cond and
    uncond share their coefficients; with `lanes` each has its own, two calls or the halves of a
    guided batch, and shared ones are tried too: six whole runs more.  The fit says which lane is
    the unconditional one, where two calls, labels or `uncond_first` do: an `Engine` needs it.
    Held are `history` + 1 values of every branch.
    `out` receives the corrector, and until it is done the sums so far, which `resume` takes up.
    Raises TypeError and ValueError as `compile` and `calibrate` do.
    """
    check_arguments("fit_corrector", loop=loop, history=history, runs=runs, batch_size=batch_size,
                    seed=seed, calls_per_step=calls_per_step, cfg_scale=cfg_scale, lanes=lanes,
                    out=out, resume=resume, progress=progress)  # fmt: skip
    count = _lanes(lanes, calls_per_step)
    seen = _order(uncond_first, loop, calls_per_step)
    spec = read_spec(router)
    cut = str(getattr(spec, "granularity", "branch")) if granularity is None else granularity
    bound_model = described("fit_corrector", model, loop, sites, cut)
    schedule = resolve_schedule(
        spec, steps=steps, branches=bound_model.program.branch_names, program=bound_model.program
    )
    fits = [Fits(schedule.compute, history, min(runs, FOLDS), carry, count) for carry in CARRIES]
    calibration = CalibrationRuns(bound_model, loop, schedule.steps, calls_per_step, seed,
                                  batch_size, cfg_scale)  # fmt: skip
    options = {"schedule": schedule.digest, "runs": runs, "batch_size": batch_size, "seed": seed,
               "history": history, "cfg_scale": cfg_scale, "lanes": lanes}  # fmt: skip
    checkpoint = Checkpoint.of(out, options, model_fingerprint(model))
    with frozen(model):
        timesteps = _run_all(calibration, fits, runs, checkpoint, resume, progress, seen)
        fits.extend([fit.shared() for fit in fits if fit.lanes > 1])
        candidates = [_with(schedule, fit, calibration, timesteps, checkpoint) for fit in fits]
        if schedule.predictions is not None:
            candidates.append(replace(candidates[0], predictions=schedule.predictions))
        chosen = _chosen(calibration, candidates, runs, progress, seen)
    corrector = Fitted(_told(chosen, seen))
    if out is not None:
        corrector.save(out)
        checkpoint.remove()
    return corrector


def _chosen(
    calibration: CalibrationRuns,
    candidates: Sequence[CacheSchedule],
    runs: int,
    progress: bool,
    seen: SeenOrder | None,
) -> CacheSchedule:
    """The best by the runs after the first `runs`, which no fit has seen."""
    with tqdm(desc="judge", disable=not progress) as bar:
        held_out = range(runs, runs + JUDGES)
        return judged(calibration, candidates, held_out, partial(_advance, bar), seen)


def _run_all(
    calibration: CalibrationRuns,
    fits: Sequence[Fits],
    runs: int,
    checkpoint: Checkpoint,
    resume: bool,
    progress: bool,
    seen: SeenOrder,
) -> tuple[float, ...] | None:
    """The timesteps of the runs, where they are known."""
    state = checkpoint.load(fits) if resume else None
    done, timesteps = (0, None) if state is None else state
    predictors = [FittingPredictor(fit) for fit in fits]
    model, calls = calibration.bound_model, calibration.calls_per_step
    walks = [CachedWalk(model, predictor, calls, seen) for predictor in predictors]
    steps, total = calibration.steps, len(fits) * runs
    with tqdm(total=total * steps, initial=done * steps, desc="fit", disable=not progress) as bar:
        for i in range(done, total):
            predictors[i // runs].fold = i % runs % fits[0].folds

            def advance(evaluation: int, _: int, i: int = i) -> None:
                bar.update(i * steps + evaluation - bar.n)

            timesteps, _ = calibration.run(i % runs, walks[i // runs], advance)
            checkpoint.save(fits, i + 1, timesteps)
    return timesteps


def _with(
    schedule: CacheSchedule,
    fits: Fits,
    calibration: CalibrationRuns,
    timesteps: tuple[float, ...] | None,
    checkpoint: Checkpoint,
) -> CacheSchedule:
    """The schedule with what was fitted, and what it was fitted on."""
    return replace(
        schedule,
        predictions=fits.predictions(),
        sampler=calibration.sampler or schedule.sampler,
        timesteps=timesteps,
        fingerprint=checkpoint.fingerprint,
        calls_per_step=calibration.calls_per_step,
    )


def _order(uncond_first: bool | None, loop: Loop | None, calls_per_step: int) -> SeenOrder:
    """What is known of the order of cond and uncond before any run.

    Raises ValueError where another is said.
    """
    if not isinstance(uncond_first, bool | None):
        raise ValueError(
            f"fit_corrector: uncond_first is {uncond_first!r:.40}, wanted True, False or None"
        )
    known = False if loop is None or calls_per_step > 1 else None
    if uncond_first and known is False:
        raise ValueError(
            "fit_corrector: uncond_first is True, and the published loop, and two calls per step, "
            "have the conditional one first; leave it out"
        )
    return SeenOrder(uncond_first if known is None else known)


def _told(schedule: CacheSchedule, seen: SeenOrder) -> CacheSchedule:
    """The schedule that says which lane is the unconditional one, as far as that was seen."""
    predictions = schedule.predictions
    if predictions is None or predictions.lanes != 2 or seen.uncond_first is None:
        return schedule
    lane = int(not seen.uncond_first)
    return replace(schedule, predictions=replace(predictions, unconditional=lane))


def _lanes(lanes: bool, calls_per_step: int) -> int:
    """How many lanes have coefficients of their own.  Raises ValueError for more than may have."""
    if lanes and calls_per_step > MAX_LANES:
        raise ValueError(
            f"fit_corrector: {calls_per_step} calls per step are more than {MAX_LANES} lanes; use "
            "lanes=False, which shares the coefficients"
        )
    return max(2, calls_per_step) if lanes else 1


def _advance(bar: tqdm[Any], done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)
