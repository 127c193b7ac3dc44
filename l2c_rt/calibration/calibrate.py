"""`calibrate`: uncached runs of a model, measured for SmoothCache, Block Caching, MagCache, EOC."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from l2c_rt import adapters
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.model_fingerprint import model_fingerprint
from l2c_rt.adapters.own.describe import own_instead
from l2c_rt.calibration.measures import Magnitudes, MeanOutputs, ReuseErrors
from l2c_rt.calibration.recorder import Measure, Recorder
from l2c_rt.calibration.runs import Progress, Samples, is_loop, own_runs, published_runs
from l2c_rt.compare.loop_runs import Loop
from l2c_rt.schedule.calibration import Calibration
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
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Run a model uncached and measure how its branches, or whole blocks, change between steps.

    Without `loop` the model's published loop runs, `samples` images of noise [n, C, H, W] and
    `labels` that go round the classes, `batch_size` together (None: all); with it,
    `loop(model, seed)` runs once for each of `samples` seeds from `seed` on.
    Measured are the errors of reuse up to `lookback` evaluations ago; with the granularity "block"
    the ratios of norms of MagCache as well; with `prior` the mean output of every branch with a
    condition, for EOC ([steps, branches, T, D] float32, on the host).  Held are `lookback` outputs
    of every branch; runs cost what uncached ones do.
    `out` is a file that is written at the end.  `progress` is called with the evaluations done, of
    how many.  Raises TypeError and ValueError as `compile` does, and for a loop that makes other
    calls.
    """
    _check(steps=steps, samples=samples, lookback=lookback, calls_per_step=calls_per_step)
    if out is not None:
        require_writable(out)
    bound_model = _described(model, loop, sites, granularity)
    drawn = None
    if loop is None:
        drawn = Samples.of(bound_model, samples, seed, noise, labels, cfg_scale, batch_size)
    measures = _Measures.of(bound_model, steps, min(lookback, steps - 1), calls_per_step)
    if prior:
        measures.prior = MeanOutputs(len(measures.branches), steps, halves=_guided(drawn))
    recorder, told = Recorder(bound_model, measures.all()), progress or _silent
    if drawn is not None:
        samples = len(drawn.noise)
        timesteps = published_runs(bound_model, steps, drawn, recorder, told)
    elif loop is not None:
        seeds = range(seed, seed + samples)
        timesteps = own_runs(bound_model, loop, steps, calls_per_step, seeds, recorder, told)
    sampling = bound_model.sampling if loop is None else None
    calibration = measures.calibration(
        sampler="" if sampling is None else sampling.sampler,
        source=f"{samples} samples, seed {seed}", fingerprint=model_fingerprint(model),
        granularity=granularity, timesteps=timesteps,
    )  # fmt: skip
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
    def of(bound_model: BoundModel, steps: int, lookback: int, calls_per_step: int) -> _Measures:
        branches = bound_model.program.branch_names
        errors = ReuseErrors(len(branches), lookback, steps)
        of_blocks = bound_model.sites[0].is_block
        magnitudes = Magnitudes(calls_per_step, steps) if of_blocks else None
        return _Measures(branches, errors, magnitudes)

    def all(self) -> list[Measure]:
        chosen = (self.errors, self.magnitudes, self.prior)
        return [measure for measure in chosen if measure is not None]

    def calibration(self, **header: Any) -> Calibration:
        optional = {"magnitudes": self.magnitudes, "prior": self.prior}
        tables = {name: m.result() for name, m in optional.items() if m is not None}
        return Calibration(self.errors.result(), self.branches, **tables, **header)


def _guided(samples: Samples | None) -> bool:
    """Whether both labels are in a batch, cond first."""
    return samples is not None and samples.guided


def _described(
    model: nn.Module, loop: Loop | None, sites: Sequence[str] | None, granularity: str
) -> BoundModel:
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


def _check(**numbers: object) -> None:
    for name, value in numbers.items():
        least = 2 if name == "steps" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(
                f"calibrate: {name} is {value!r:.40}, wanted an int of {least} or more"
            )


def _silent(done: int, total: int) -> None:
    """No progress is shown."""
