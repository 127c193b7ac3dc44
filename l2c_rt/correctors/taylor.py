"""Taylor prediction from finite differences of computed outputs."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

from l2c_rt.correctors.differences import extrapolated
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import ROUNDINGS, Predictions

MAX_ORDER = 8


@dataclass(frozen=True, slots=True)
class Taylor:
    """`sum over i <= order of D_i * d^i / i!`, d the distance to the last computed evaluation.

    D_i is the i-th finite difference of the outputs that the branch has computed.  Keeps
    `order + 1` outputs of each branch.  With `rounding` "bfloat16" or "float16" D_i are rounded to
    that type at every computed evaluation, and the next ones made from the rounded ones, as
    diffusers does.  Raises ValueError for an order outside of 0..8, or another type; with order 0
    it is plain reuse.
    Source: TaylorSeer, arXiv 2503.06923, equations 5 to 7.
    """

    order: int = 4
    rounding: str | None = None

    def __post_init__(self) -> None:
        check_order("Taylor", self.order)
        if self.rounding not in (None, *ROUNDINGS):
            raise ValueError(
                f"Taylor: rounding is {self.rounding!r:.40}, wanted None or one of "
                f"{', '.join(ROUNDINGS)}"
            )

    def predictions(self, schedule: CacheSchedule) -> Predictions:
        """The predicted values of a schedule."""
        return extrapolated(schedule, self.order, lambda i, d: d**i / factorial(i), self.rounding)


def check_order(name: str, order: int) -> None:
    """ValueError where an order of differences is none."""
    if isinstance(order, bool) or not isinstance(order, int) or not 0 <= order <= MAX_ORDER:
        raise ValueError(f"{name}: order is {order!r:.40}, wanted an int in 0..{MAX_ORDER}")
