"""The runs that something is fitted on: each from a seed of its own, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from l2c_rt import adapters
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.describe import own_instead
from l2c_rt.calibration.runs import Callee, Progress, Runs, is_loop
from l2c_rt.comparison.loop_runs import Loop, images_of


@dataclass(frozen=True, slots=True)
class CalibrationRuns:
    """Runs of the published loop of a model's family, `batch_size` images in each, or of a loop of
    the user's own; run i is by seed + i."""

    bound_model: BoundModel
    loop: Loop | None
    steps: int
    calls_per_step: int
    seed: int
    batch_size: int
    cfg_scale: float | None

    @property
    def sampler(self) -> str:
        """The name of the published loop's, "" in a loop of the user's own."""
        loop = self.bound_model.sampling if self.loop is None else None
        return "" if loop is None else loop.sampler

    def run(
        self, i: int, watched: Callee, progress: Progress
    ) -> tuple[tuple[float, ...] | None, list[Tensor]]:
        """Run number i: the timesteps, where known, and what it ends in, [n, ...] each."""
        results: list[Any] = []
        runs = Runs(
            self.bound_model, self.steps, self.loop, self.calls_per_step, self.cfg_scale,
            None, progress, results.append,
        )  # fmt: skip
        if self.loop is not None:
            return runs.over(watched, 1, self.seed + i), images_of(results[-1])
        noise, labels = self._inputs(i)
        timesteps = runs.over(watched, len(noise), 0, noise, labels)
        return timesteps, images_of(results[-1])

    def _inputs(self, i: int) -> tuple[Tensor, list[int] | None]:
        loop = self.bound_model.sampling
        assert loop is not None
        shape = (self.batch_size, loop.channels, loop.size, loop.size)
        generator = torch.Generator().manual_seed(self.seed + i)
        noise = torch.randn(shape, generator=generator).to(self.bound_model.device)
        first = i * self.batch_size
        labels = range(first, first + self.batch_size)
        return noise, [k % loop.classes for k in labels] if loop.classes else None


def described(
    caller: str,
    model: nn.Module,
    loop: Loop | None,
    sites: Sequence[str] | None,
    granularity: str,
) -> BoundModel:
    """The model as its own forward has it.

    Raises TypeError for a loop that cannot be called, ValueError where one is needed.
    """
    if loop is not None and not is_loop(loop):
        raise TypeError(f"{caller}: loop is a {type(loop).__name__}, wanted loop(model, seed)")
    bound_model = adapters.describe(model, sites=sites, granularity=granularity)
    if bound_model.open_stage is None:
        bound_model = own_instead(bound_model, f"{caller} looks at what the model itself does")
    if loop is None and bound_model.sampling is None:
        raise ValueError(
            f"{caller}: no published loop for {type(model).__name__}; give one: "
            f"{caller}(model, ..., loop=loop) with loop(model, seed), which runs your pipeline"
        )
    if any(branch.nested for branch in bound_model.program.branches):
        raise ValueError(f"{caller}: shells of a U-Net lie inside each other and are not predicted")
    return bound_model
