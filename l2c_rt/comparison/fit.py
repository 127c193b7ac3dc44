"""The fidelity of a schedule: its run against the full run, beside controls of equal compute."""

from __future__ import annotations

from functools import partial
from os import PathLike
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from l2c_rt import adapters
from l2c_rt.adapters.branch_forward import frozen
from l2c_rt.api import compile
from l2c_rt.arguments import check_arguments
from l2c_rt.comparison.fit_report import Fit, FitReport
from l2c_rt.comparison.loop_runs import Loop, LoopRuns
from l2c_rt.comparison.methods import equal_compute
from l2c_rt.comparison.runs import (
    RunInputs,
    psnr_per_image,
    relative_error,
    require_finite,
)
from l2c_rt.policies.policy import alike
from l2c_rt.policies.router import Router
from l2c_rt.resolve import resolve_schedule
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.schedule.cache_schedule import CacheSchedule


class Runs(Protocol):
    """Whole runs that start from the same noise each time."""

    @property
    def cfg_scale(self) -> float | None: ...

    def latents(self, fast: Compiled) -> tuple[list[Tensor], list[Tensor]]:
        """The latents after every evaluation, and images [n, ...] at the end."""
        ...


def fit_report(
    model: nn.Module,
    router: Router | CacheSchedule | str | PathLike[str],
    *,
    images: int = 16,
    cfg_scale: float | None = None,
    seed: int = 0,
    peak: float | None = None,
    loop: Loop | None = None,
    calls_per_step: int = 1,
) -> FitReport:
    """Sample `images` from the same noise with and without the cache and compare.

    The controls reuse as many branches: drawn at random by `seed`, every N evaluations, and the
    noisiest evaluations first.  `peak` of the PSNR is the range of the full run's images unless
    given; `cfg_scale` None is the family's.  With a `loop` of your own, as `learn` takes it, what
    is compared at the end is what it returns, of `images` runs with the seeds from `seed` on.
    Raises TypeError for a model without adapter, ValueError where the schedule does not fit it.
    """
    check_arguments(
        "fit_report", images=images, cfg_scale=cfg_scale, seed=seed, peak=peak, loop=loop,
        calls_per_step=calls_per_step,
    )  # fmt: skip
    schedule = resolve_schedule(router)
    runs: Runs
    if loop is None:
        bound_model = adapters.bind(model)
        runs = RunInputs.drawn("fit_report", bound_model, images, cfg_scale, seed)
        resolve_schedule(schedule, branches=bound_model.program.branch_names)
    else:
        if cfg_scale is not None:
            raise ValueError(
                f"fit_report: got loop= and cfg_scale={cfg_scale:g}; the loop has its own "
                "guidance, leave cfg_scale out"
            )
        runs = LoopRuns(loop, seed, images, calls_per_step)
    build = partial(compile, model, calls_per_step=calls_per_step)
    with frozen(model):
        latents, full = runs.latents(build(_full(schedule)))
        require_finite("fit_report", full)
        span = _span(full) if peak is None else float(peak)
        fits = tuple(
            _fit(name, build(method(schedule)), runs, latents, full, span)
            for name, method in equal_compute("this schedule", seed).items()
        )
    computed, shown = int(schedule.compute.sum()), sum(map(len, full))
    return FitReport(
        schedule.steps, schedule.num_branches, computed, shown, seed, runs.cfg_scale, span, fits
    )


def _full(schedule: CacheSchedule) -> CacheSchedule:
    return alike(schedule, np.ones_like(schedule.compute), "full")


def _span(images: list[Tensor]) -> float:
    return max(float(part.max()) for part in images) - min(float(part.min()) for part in images)


def _fit(
    name: str,
    fast: Compiled,
    runs: Runs,
    full_latents: list[Tensor],
    full_images: list[Tensor],
    peak: float,
) -> Fit:
    latents, images = runs.latents(fast)
    reused = 1.0 - fast.schedule.compute.mean(axis=1)
    pairs = zip(images, full_images, strict=True)
    return Fit(
        name=name,
        reused=tuple(float(share) for share in reused),
        error=tuple(relative_error(a, b) for a, b in zip(latents, full_latents, strict=True)),
        psnr=tuple(value for a, b in pairs for value in psnr_per_image(a, b, peak)),
        speedup_limit=fast.cost.speedup_limit,
    )
