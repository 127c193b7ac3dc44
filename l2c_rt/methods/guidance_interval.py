"""Guidance in an interval of the noise levels only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from l2c_rt.methods.checks import check_bool
from l2c_rt.methods.timesteps import checked_window, in_window, trained_timesteps
from l2c_rt.policies.policy import full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.halves import HalfSchedule


@dataclass(frozen=True, slots=True)
class GuidanceInterval:
    """Runs the unconditional half of the batch only where lo < t < hi; nothing else is reused.

    Elsewhere the output has the conditional prediction in both halves, so that any guidance of the
    loop, u + w (c - u), gives c.  Evaluation 0 is computed as a whole whatever its timestep.

    Keeps: nothing.  Needs: `timesteps=` of `compile`, on the scale 0..1000 of training or as sigmas
    0..1, and cond and uncond in one batch: `uncond_first` as diffusers' video and text-to-image
    pipelines have them, or not, as DiT.
    Raises ValueError for a window that is none.
    Source: Kynkaanniemi et al., Applying Guidance in a Limited Interval, arXiv 2404.07724.
    """

    timestep_range: tuple[float, float] = (-1, 801)
    uncond_first: bool = True

    needs_timesteps: ClassVar[bool] = True
    """This method plans by the timesteps of the run."""

    def __post_init__(self) -> None:
        checked_window("GuidanceInterval: timestep_range", self.timestep_range)
        check_bool("GuidanceInterval: uncond_first", self.uncond_first)

    def schedule(
        self, steps: int, branches: tuple[str, ...], *, timesteps: Sequence[float] | None = None
    ) -> CacheSchedule:
        times = trained_timesteps("GuidanceInterval", timesteps)
        halved = ~in_window(times, self.timestep_range)
        ones = np.ones(steps)
        halves = HalfSchedule(halved, ones, ones, bands=False, uncond_first=self.uncond_first)
        low, high = self.timestep_range
        return CacheSchedule(
            full_table(steps, branches), branches, source=f"GuidanceInterval, {low:g}..{high:g}",
            timesteps=tuple(map(float, timesteps or ())), halves=halves,
        )  # fmt: skip
