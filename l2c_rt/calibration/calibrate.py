"""`calibrate`: uncached runs of a model, measured for SmoothCache, Block Caching, MagCache, EOC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from l2c_rt import adapters
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.model_fingerprint import model_fingerprint
from l2c_rt.adapters.own.describe import own_instead
from l2c_rt.arguments import check_arguments, optional, whole
from l2c_rt.calibration.measures import Judgement, Magnitudes, MeanOutputs, ReuseErrors
from l2c_rt.calibration.recorder import Measure, Recorder
from l2c_rt.calibration.runs import Progress, Runs, is_loop
from l2c_rt.comparison.loop_runs import Loop
from l2c_rt.correctors.eoc import EOC
from l2c_rt.methods.checks import check_callback
from l2c_rt.schedule.calibration import Calibration
from l2c_rt.schedule.checks import MAX_STEPS
from l2c_rt.untrusted.atomic_write import require_writable

SAMPLES = 10
"""The published number of samples of SmoothCache's calibration."""


def calibrate(
    model: nn.Module,
    loop: Loop | None = None,
    *,
    steps: int,
    samples: int = SAMPLES,
    lookback: int = 3,
    seed: int = 0,
    granularity: str = "branch",
    sites: Sequence[str] | None = None,
    calls_per_step: int = 1,
    noise: Tensor | None = None,
    labels: Sequence[int] | None = None,
    cfg_scale: float | None = None,
    batch_size: int | None = None,
    prior: bool = False,
    held_out: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Run a model uncached and measure how its branches, or whole blocks, change between steps.

    Without `loop` the model's published loop runs, `samples` images of noise [n, C, H, W] and
    `labels` that go round the classes, `batch_size` together (None: all); with it,
    `loop(model, seed)` runs once for each of `samples` seeds from `seed` on.
    Measured are the errors of reuse up to `lookback` evaluations ago; with the granularity "block"
    the ratios of norms of MagCache as well; with `prior` the mean output of every branch with a
    condition, for EOC ([steps, branches, T, D] float32, on the host), and with `held_out` further
    samples where EOC's correction lowers the error on them.  Held are `lookback` outputs of every
    branch; runs cost what uncached ones do.
    `out` is a file that is written at the end.  `progress` is called with the evaluations done, of
    how many.  Raises TypeError and ValueError as `compile` does, and for a loop that makes other
    calls.
    """
    check_arguments(
        "calibrate", loop=loop, steps=steps, samples=samples, lookback=lookback, seed=seed,
        calls_per_step=calls_per_step, cfg_scale=cfg_scale, prior=prior, held_out=held_out, out=out,
        labels=labels,
    )  # fmt: skip
    whole(2, MAX_STEPS)("calibrate: steps", steps)
    optional(whole(1))("calibrate: batch_size", batch_size)
    check_callback("calibrate: progress", progress)
    if held_out and not prior:
        raise ValueError("calibrate: held_out runs judge a prior; give prior=True with them")
    if out is not None:
        require_writable(out)
    bound_model = described_for_calibration(model, loop, sites, granularity)
    runs = Runs(bound_model, steps, loop, calls_per_step, cfg_scale, batch_size, progress)
    measures = _Measures.of(runs, min(lookback, steps - 1), prior=prior)
    recorder = Recorder(bound_model, measures.all())
    timesteps = runs.over(recorder, samples, seed, noise, labels)
    calibration = measures.calibration(
        sampler=runs.sampler, source=f"seed {seed}", fingerprint=model_fingerprint(model),
        granularity=granularity, timesteps=timesteps,
    )  # fmt: skip
    if held_out:
        judgement = Judgement(EOC(calibration), len(calibration.branches), steps)
        runs.over(Recorder(bound_model, [judgement]), held_out, seed + samples)
        calibration = replace(calibration, corrects=judgement.result())
    if out is not None:
        calibration.save(out)
    return calibration


@dataclass(slots=True)
class _Measures:
    """What is measured in one calibration."""

    branches: tuple[str, ...]
    errors: ReuseErrors
    magnitudes: Magnitudes | None
    prior: MeanOutputs | None = None

    @staticmethod
    def of(runs: Runs, lookback: int, *, prior: bool) -> _Measures:
        branches, steps = runs.bound_model.program.branch_names, runs.steps
        of_blocks = runs.bound_model.sites[0].is_block
        return _Measures(
            branches,
            ReuseErrors(len(branches), lookback, steps),
            Magnitudes(runs.calls_per_step, steps) if of_blocks else None,
            MeanOutputs(len(branches), steps, halves=runs.guided) if prior else None,
        )

    def all(self) -> list[Measure]:
        chosen = (self.errors, self.magnitudes, self.prior)
        return [measure for measure in chosen if measure is not None]

    def calibration(self, **header: Any) -> Calibration:
        calibration = Calibration(self.errors.result(), self.branches, **header)
        if self.magnitudes is not None:
            calibration = replace(calibration, magnitudes=self.magnitudes.result())
        if self.prior is not None:
            calibration = replace(calibration, prior=self.prior.result())
        return calibration


def described_for_calibration(
    model: nn.Module, loop: Loop | None, sites: Sequence[str] | None, granularity: str
) -> BoundModel:
    """The model's own forward, cut; TypeError or ValueError where there is no loop to run."""
    if loop is not None and not is_loop(loop):
        raise TypeError(f"calibrate: loop is a {type(loop).__name__}, wanted loop(model, seed)")
    bound_model = adapters.describe(model, sites=sites, granularity=granularity)
    if bound_model.open_stage is None:
        bound_model = own_instead(bound_model, "calibration records what the model itself does")
    if loop is None and bound_model.sampling is None:
        raise ValueError(
            f"calibrate: no published loop for {type(model).__name__}; give one: "
            "calibrate(model, loop) with loop(model, seed), which runs your pipeline"
        )
    return bound_model
