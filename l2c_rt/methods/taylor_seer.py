"""TaylorSeer: outputs between full evaluations are extrapolated by their differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2c_rt.correctors.corrector import corrected
from l2c_rt.correctors.hermite import HiCache as HermiteCorrector
from l2c_rt.correctors.taylor import Taylor, check_order
from l2c_rt.methods.checks import check_int
from l2c_rt.policies.policy import BoolArray, full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule


@dataclass(frozen=True, slots=True)
class TaylorSeer:
    """Computes the first evaluations and every `interval`-th after, and extrapolates the others.

    Full are evaluations 0 .. first_enhance - 1 and then every `interval`-th (50 steps, 4: 0, 1, 5,
    9, ...), all branches together.  Elsewhere a branch, before its gate, is the sum of D_i d^i / i!
    up to `max_order`, d the distance to the last full evaluation, D_i the differences of computed
    outputs (`rt.correctors.Taylor`).  Kept are max_order + 1 outputs of each branch.
    Source: arXiv 2503.06923; github Shenyi-Z/TaylorSeer, whose sample.py has order 4.
    """

    interval: int = 4
    max_order: int = 4
    first_enhance: int = 2

    def __post_init__(self) -> None:
        check_int("TaylorSeer: interval", self.interval, 1)
        check_int("TaylorSeer: first_enhance", self.first_enhance, 1)
        check_order("TaylorSeer: max_order", self.max_order)

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        compute = first_and_every(steps, branches, self.first_enhance, self.interval)
        source = f"TaylorSeer, every {self.interval}, order {self.max_order}"
        return corrected(CacheSchedule(compute, branches, source=source), Taylor(self.max_order))


@dataclass(frozen=True, slots=True)
class HiCache:
    """TaylorSeer's full evaluations, with Hermite polynomials in place of powers.

    Elsewhere a branch is D_0 + the sum of D_i / i! * sigma^i H_i(sigma d), D_i newer less older,
    d positive (`rt.correctors.HiCache`).  Kept are max_order + 1 outputs of each branch.
    Source: HiCache, arXiv 2508.16984; there is no published program: interval, order and the full
    evaluations are TaylorSeer's, sigma is that of re-implementations.
    """

    interval: int = 4
    max_order: int = 2
    sigma: float = 0.5
    first_enhance: int = 2

    def __post_init__(self) -> None:
        check_int("HiCache: interval", self.interval, 1)
        check_int("HiCache: first_enhance", self.first_enhance, 1)
        check_order("HiCache: max_order", self.max_order)
        HermiteCorrector(self.max_order, self.sigma)

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        compute = first_and_every(steps, branches, self.first_enhance, self.interval)
        source = f"HiCache, every {self.interval}, order {self.max_order}, sigma {self.sigma:g}"
        schedule = CacheSchedule(compute, branches, source=source)
        return corrected(schedule, HermiteCorrector(self.max_order, self.sigma))


def first_and_every(steps: int, branches: tuple[str, ...], first: int, interval: int) -> BoolArray:
    """Full at evaluations 0 .. first - 1 and at every `interval`-th after the last of them."""
    compute = full_table(steps, branches)
    n = np.arange(steps)
    compute[(n >= first) & ((n - first + 1) % interval != 0)] = False
    return compute
