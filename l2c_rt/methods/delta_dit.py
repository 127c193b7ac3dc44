"""Delta-DiT: kept is what a range of blocks adds, early the last ones, late the first ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2c_rt.methods.checks import check_int
from l2c_rt.policies.policy import full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule


@dataclass(frozen=True, slots=True)
class DeltaDiT:
    """Reuses what a range of `num_cached` blocks adds, computed at every `interval`-th evaluation.

    In the first `boundary` evaluations the range is the last blocks of the model, which draw
    detail; from then on the first ones, which draw outlines.  At the change, the new range is
    computed.  Kept is the difference between the range's output and input, as one.
    Source: Delta-DiT, arXiv 2406.01125 (N, Nc and b); there is no published code and no default:
    the paper's b counts the timesteps that are left, `boundary` counts evaluations from the first.
    The values here are half of 28 blocks, half of 20 steps.
    """

    interval: int = 2
    num_cached: int = 14
    boundary: int = 10

    granularity = "block"
    """What is kept is what whole blocks add."""

    def __post_init__(self) -> None:
        check_int("DeltaDiT: interval", self.interval, 1)
        check_int("DeltaDiT: num_cached", self.num_cached, 1)
        check_int("DeltaDiT: boundary", self.boundary, 0)

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        compute = full_table(steps, branches)
        if self.num_cached > len(branches):
            raise ValueError(
                f"DeltaDiT: num_cached is {self.num_cached}, and the model has {len(branches)} "
                "blocks; wanted at most as many"
            )
        early = np.arange(steps) < self.boundary
        place = np.where(early, np.arange(steps), np.arange(steps) - self.boundary)
        cached = place % self.interval != 0
        compute[cached & early, len(branches) - self.num_cached :] = False
        compute[cached & ~early, : self.num_cached] = False
        source = (
            f"Delta-DiT, every {self.interval}, {self.num_cached} blocks, {self.boundary} early"
        )
        return CacheSchedule(compute, branches, source=source, granularity="block")
