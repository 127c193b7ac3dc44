"""FORA: all branches are computed at every N-th evaluation, counted from the last one."""

from __future__ import annotations

from dataclasses import dataclass

from l2c_rt.methods.checks import check_int
from l2c_rt.policies.static import EveryN
from l2c_rt.schedule.cache_schedule import CacheSchedule


@dataclass(frozen=True, slots=True)
class FORA:
    """Computes everything where the published counter says so, and reuses everything between.

    The counter goes down: with s = steps - 1 - n, evaluation n is full where s is steps - 1 or a
    multiple of `cache_threshold` (50 steps, 3: n = 0, 1, 4, 7, ..., 49).  Kept is every branch's
    output before its gate; the current gate is applied.  Needs nothing but the number of steps.
    Source: FORA, arXiv 2407.01425; github prathebaselva/FORA.  There is no published default; 3 is
    the interval of its tables.
    """

    cache_threshold: int = 3

    def __post_init__(self) -> None:
        check_int("FORA: cache_threshold", self.cache_threshold, 1)

    def full_steps(self, steps: int) -> tuple[int, ...]:
        """The evaluations that compute everything."""
        return EveryN(self.cache_threshold).full_steps(steps)

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        return EveryN(self.cache_threshold).schedule(steps, branches)
