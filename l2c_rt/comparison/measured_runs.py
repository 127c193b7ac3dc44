"""Runs of a method for each seed: errors, images, seconds beside the full run, memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from l2c_rt.comparison.arithmetic import counted, planned
from l2c_rt.comparison.image_metrics import ImageMetrics
from l2c_rt.comparison.results import SeedResult
from l2c_rt.comparison.runs import relative_error, require_finite
from l2c_rt.comparison.subjects import Observed, Subject, span
from l2c_rt.measure.clocks import Clock, clock_for
from l2c_rt.policies import Full
from l2c_rt.runtime.compiled import Compiled


@dataclass
class MeasuredRuns:
    """The full runs of all seeds are made once, when first asked for, and kept."""

    subject: Subject
    seeds: tuple[int, ...]
    rounds: int
    clock: Clock | None = None
    features: nn.Module | None = None
    wanted: Collection[str] | None = None
    _models: Sequence[Compiled] = ()
    _full: dict[int, Observed] = field(default_factory=dict)
    _metrics: ImageMetrics | None = None

    def of(self, models: Sequence[Compiled], seed: int) -> SeedResult:
        """One seed's run, observed, and then timed, each time beside a full run."""
        metrics, full = self.metrics, self._full[seed]
        if models is self.full_models:
            seen, cost = full, planned(models)
        else:
            seen, cost = counted(models, lambda: self.subject.observe(models, seed))
        errors = tuple(
            relative_error(a, b) for a, b in zip(seen.latents, full.latents, strict=True)
        )
        quality = metrics.of(seen.images, full.images)
        seconds, full_seconds = self._timed(models, seed)
        summaries = [model.summary() for model in models]
        return SeedResult(
            seed=seed, macs=cost.macs, full_macs=cost.full_macs, error=errors, psnr=quality.psnr,
            ssim=quality.ssim, lpips=quality.lpips, seconds=seconds, full_seconds=full_seconds,
            cache_bytes=sum(s.slot_bytes + s.table_bytes for s in summaries),
            peak_bytes=self._peak(models, seed), features=quality.features,
        )  # fmt: skip

    @property
    def full_models(self) -> Sequence[Compiled]:
        """The models with nothing reused."""
        if not self._models:
            self._models = self.subject.build(Full(), {})
        return self._models

    @property
    def metrics(self) -> ImageMetrics:
        """Those of the full run's images."""
        if self._metrics is None:
            self._full = {s: self.subject.observe(self.full_models, s) for s in self.seeds}
            require_finite(
                "compare", [end for seen in self._full.values() for end in seen.latents[-1:]]
            )
            images = [image for seen in self._full.values() for image in seen.images]
            peak = self.subject.peak or (span(images) if images else 1.0)
            self._metrics = ImageMetrics(images, peak, self.features, self.wanted)
        return self._metrics

    def _timed(
        self, models: Sequence[Compiled], seed: int
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Seconds of the method and of the full run, A B, B A, A B, ... over rounds and seeds."""
        clock = self.clock or clock_for(models[0].bound_model.device)
        own, full = (
            partial(self.subject.run, models, seed),
            partial(self.subject.run, self.full_models, seed),
        )
        pairs: list[tuple[float, float]] = []
        for number in range(self.rounds):
            if models is self.full_models:
                pairs.append((clock(own),) * 2)
            elif (number + self.seeds.index(seed)) % 2:
                pairs.append((clock(full), clock(own))[::-1])
            else:
                pairs.append((clock(own), clock(full)))
        return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)

    def _peak(self, models: Sequence[Compiled], seed: int) -> int | None:
        device = models[0].bound_model.device
        if device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(device)
        self.subject.run(models, seed)
        return torch.cuda.max_memory_allocated(device)
