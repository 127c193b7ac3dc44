"""The fidelity of a schedule: its run against the full run, beside controls of equal compute."""

from __future__ import annotations

from os import PathLike

from torch import Tensor, nn

from l2c_rt import adapters
from l2c_rt.adapters.branch_forward import frozen
from l2c_rt.api import compile
from l2c_rt.compare.fit_report import Fit, FitReport
from l2c_rt.compare.methods import equal_compute
from l2c_rt.compare.runs import RunInputs, psnr_per_image, relative_error
from l2c_rt.policies import Full
from l2c_rt.policies.router import Router
from l2c_rt.resolve import resolve_schedule
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.schedule.cache_schedule import CacheSchedule


def fit_report(
    model: nn.Module,
    router: Router | CacheSchedule | str | PathLike[str],
    *,
    images: int = 16,
    cfg_scale: float | None = None,
    seed: int = 0,
    peak: float | None = None,
) -> FitReport:
    """Sample `images` from the same noise with and without the cache and compare.

    The controls reuse as many branches: drawn at random by `seed`, every N evaluations, and the
    noisiest evaluations first.  `peak` of the PSNR is the range of the full run's latents unless
    given; `cfg_scale` None is the family's.
    Raises TypeError for a model without adapter, ValueError where the schedule does not fit it.
    """
    bound_model = adapters.bind(model)
    inputs = RunInputs.drawn("fit_report", bound_model, images, cfg_scale, seed)
    schedule = resolve_schedule(router, branches=bound_model.program.branch_names)
    with frozen(model):
        full = _latents(compile(model, Full(), steps=schedule.steps), inputs)
        span = float(full[-1].max() - full[-1].min()) if peak is None else float(peak)
        fits = tuple(
            _fit(name, compile(model, method(schedule)), full, inputs, span)
            for name, method in equal_compute("this schedule", seed).items()
        )
    computed = int(schedule.compute.sum())
    return FitReport(
        schedule.steps, schedule.num_branches, computed, images, seed, inputs.cfg_scale, span, fits
    )


def _latents(fast: Compiled, inputs: RunInputs) -> list[Tensor]:
    """The latents after every evaluation."""
    steps: list[Tensor] = []
    inputs.run(fast, lambda step, latents: steps.append(latents.float()))
    return steps


def _fit(name: str, fast: Compiled, full: list[Tensor], inputs: RunInputs, peak: float) -> Fit:
    cached = _latents(fast, inputs)
    reused = 1.0 - fast.schedule.compute.mean(axis=1)
    return Fit(
        name=name,
        reused=tuple(float(share) for share in reused),
        error=tuple(relative_error(a, b) for a, b in zip(cached, full, strict=True)),
        psnr=psnr_per_image(cached[-1], full[-1], peak),
        speedup_limit=fast.cost.speedup_limit,
    )
