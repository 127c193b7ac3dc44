"""Prediction in a basis of Hermite polynomials instead of powers."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

from l2c_rt.correctors.differences import extrapolated
from l2c_rt.correctors.taylor import check_order
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions


@dataclass(frozen=True, slots=True)
class HiCache:
    """`D_0 + sum over 1 <= i <= order of D_i / i! * sigma^i H_i(sigma d)`.

    H_i are the physicists' Hermite polynomials and D_i TaylorSeer's differences, newer less older,
    so that the distance d to the last computed evaluation is positive.  sigma below one damps
    what powers of d would blow up.  Keeps `order + 1` outputs of each branch.
    The authors published no program: this is the paper's formula with the sign that fits it.
    Raises ValueError for an order outside of 0..8 or a sigma outside of (0, 1].
    Source: HiCache, arXiv 2508.16984.
    """

    order: int = 2
    sigma: float = 0.5

    def __post_init__(self) -> None:
        check_order("HiCache", self.order)
        is_number = isinstance(self.sigma, int | float) and not isinstance(self.sigma, bool)
        if not is_number or not 0 < self.sigma <= 1:
            raise ValueError(f"HiCache: sigma is {self.sigma!r:.40}, wanted a number in (0, 1]")

    def predictions(self, schedule: CacheSchedule) -> Predictions:
        """The predicted values of a schedule."""
        return extrapolated(schedule, self.order, self._weight)

    def _weight(self, i: int, distance: int) -> float:
        scaled = self.sigma**i * hermite(i, self.sigma * distance)
        return scaled / factorial(i)


def hermite(n: int, x: float) -> float:
    """The physicists' Hermite polynomial H_n: 1, 2x, 4x^2 - 2, ..."""
    before, value = 0.0, 1.0
    for j in range(n):
        before, value = value, 2 * x * value - 2 * j * before
    return value
