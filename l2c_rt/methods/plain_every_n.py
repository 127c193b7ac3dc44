"""Every N-th evaluation, counted from the first one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2c_rt.methods.checks import check_int
from l2c_rt.policies.policy import full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule


@dataclass(frozen=True, slots=True)
class PlainEveryN:
    """Computes all branches at evaluations 0, N, 2N, ... and reuses all of them in between.

    Where others count so and say FORA (SmoothCache's tables, GOC), this is what they run; FORA's
    own program counts from the last evaluation (`FORA`).
    """

    interval: int = 2

    def __post_init__(self) -> None:
        check_int("PlainEveryN: interval", self.interval, 1)

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        compute = np.zeros_like(full_table(steps, branches))
        compute[:: self.interval] = True
        return CacheSchedule(compute, branches, source=f"plain every {self.interval}")
