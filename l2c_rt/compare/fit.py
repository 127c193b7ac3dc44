"""The fidelity of a schedule: its run against the full run, beside controls of equal compute."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike

import torch
from torch import Tensor, nn

from l2c_rt import adapters
from l2c_rt.adapters.bound_model import BoundModel, PublishedLoop
from l2c_rt.adapters.branch_forward import frozen
from l2c_rt.api import compile
from l2c_rt.compare.fit_report import Fit, FitReport
from l2c_rt.policies import EveryN, Full, NoisiestFirst, Policy, Random
from l2c_rt.policies.router import Router
from l2c_rt.resolve import resolve_schedule
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.schedule.cache_schedule import CacheSchedule

Inputs = tuple[Tensor, Tensor | None, float]
"""Noise, labels and guidance scale of a run."""


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
    loop = _loop(bound_model, images)
    schedule = resolve_schedule(router, branches=bound_model.program.branch_names)
    scale = _scale(loop, cfg_scale)
    inputs = (*_inputs(bound_model, loop, images, seed), scale)
    with frozen(model):
        full = _latents(_compiled(model, Full(), schedule), inputs)
        span = float(full[-1].max() - full[-1].min()) if peak is None else float(peak)
        fits = tuple(
            _fit(name, _compiled(model, compared, schedule), full, inputs, span)
            for name, compared in _schedules(schedule, seed).items()
        )
    computed = int(schedule.compute.sum())
    return FitReport(
        schedule.steps, schedule.num_branches, computed, images, seed, scale, span, fits
    )


def _schedules(schedule: CacheSchedule, seed: int) -> Mapping[str, CacheSchedule]:
    return {
        "this schedule": schedule,
        "random": Random.like(schedule, seed),
        "every-N": EveryN.like(schedule),
        "noisiest first": NoisiestFirst.like(schedule),
    }


def _compiled(model: nn.Module, policy: Policy | CacheSchedule, like: CacheSchedule) -> Compiled:
    return compile(model, policy, steps=like.steps)


def _loop(bound_model: BoundModel, images: int) -> PublishedLoop:
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise ValueError(f"fit_report: images is {images!r:.40}, wanted an int of at least 1")
    if bound_model.sampling is None:
        raise ValueError(f"fit_report: no published loop for {type(bound_model.model).__name__}")
    return bound_model.sampling


def _scale(loop: PublishedLoop, cfg_scale: float | None) -> float:
    if cfg_scale is not None:
        return cfg_scale
    return loop.cfg_scale if loop.null_label is not None else 0.0


def _inputs(
    bound_model: BoundModel, loop: PublishedLoop, images: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """Noise by the seed, and labels that go round the classes, if there are any."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"fit_report: seed is {seed!r:.80}, wanted an int from 0 to 2**63 - 1")
    device = next(bound_model.model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    shape = (images, loop.channels, loop.size, loop.size)
    noise = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
    labels = torch.arange(images, device="cpu") % loop.classes if loop.classes else None
    return noise.to(device), None if labels is None else labels.to(device)


def _latents(fast: Compiled, inputs: Inputs) -> list[Tensor]:
    """The latents after every evaluation."""
    steps: list[Tensor] = []
    fast.sample(*inputs, callback=lambda step, latents: steps.append(latents.float()))
    return steps


def _fit(name: str, fast: Compiled, full: list[Tensor], inputs: Inputs, peak: float) -> Fit:
    cached = _latents(fast, inputs)
    error = [float((a - b).norm() / b.norm()) for a, b in zip(cached, full, strict=True)]
    squares = (cached[-1] - full[-1]).square().flatten(1).mean(dim=1).double()
    reused = 1.0 - fast.schedule.compute.mean(axis=1)
    return Fit(
        name=name,
        reused=tuple(float(share) for share in reused),
        error=tuple(error),
        psnr=tuple(float(v) for v in 10.0 * torch.log10(peak**2 / squares)),
        speedup_limit=fast.cost.speedup_limit,
    )
