"""Policies of fixed form: a number of steps and branch names make a CacheSchedule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2c_rt.policies.policy import alike, full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule


@dataclass(frozen=True, slots=True)
class Full:
    """Computes everything: the uncached run."""

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        return CacheSchedule(full_table(steps, branches), branches, source="full")


@dataclass(frozen=True, slots=True)
class EveryN:
    """Computes all branches at every n-th evaluation and reuses all of them in between.

    The step sets are FORA's, which counts down: evaluation k is full when c = steps - 1 - k is
    steps - 1 or a multiple of n (50 steps, n = 3: 0, 1, 4, 7, ..., 49).
    Source: FORA, arXiv 2407.01425.
    """

    n: int

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise ValueError(f"EveryN: n is {self.n!r}, wanted an int of at least 1 (1 is full)")

    def full_steps(self, steps: int) -> tuple[int, ...]:
        """The evaluations that compute everything."""
        return tuple(k for k in range(steps) if k == 0 or (k - (steps - 1)) % self.n == 0)

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        compute = np.zeros_like(full_table(steps, branches))
        compute[list(self.full_steps(steps))] = True
        return CacheSchedule(compute, branches, source=f"every {self.n}")

    @staticmethod
    def like(schedule: CacheSchedule) -> CacheSchedule:
        """The every-N shape with exactly as many computed branches as `schedule`.

        With F = computed // K, the F full evaluations are those where floor(k * F / S) steps up:
        evenly spread, and k % N == 0 where S = N * F. The remaining computed % K branches are
        the first ones, in execution order, of the last evaluation that is not full.
        """
        steps, branches = schedule.compute.shape
        full, partial = divmod(int(schedule.compute.sum()), branches)
        compute = np.zeros((steps, branches), np.bool_)
        compute[_spread(steps, full)] = True
        if partial:
            compute[np.flatnonzero(~compute.any(axis=1))[-1], :partial] = True
        assert compute.sum() == schedule.compute.sum(), f"{full=} {partial=}"
        return alike(schedule, compute, "every-N")


def _spread(steps: int, full: int) -> list[int]:
    """The k whose bin k * full // steps is entered at k: `full` of them, evenly spread, with 0."""
    return [-(-j * steps // full) for j in range(full)]
