"""GOC: a step on along the last change of what was used."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions

PUBLISHED = (3, 5, 7, 9, 11, 13, 15, 19)
"""The evaluations that the published programs correct, of 20."""


@dataclass(frozen=True, slots=True)
class Goc:
    """`H0 + eta (H0 - H1)`, H0 and H1 what was *used* one and two evaluations before.

    What was used is computed, reused or itself corrected, so the sum is kept where it is read
    again.  `evaluations` are those that are corrected; None are all from 3 on.  With `pairs` only
    where attention and MLP of a block are both reused, as in the published program for L2C (which
    has eta 0.8; the one for FORA has 1.2).  Keeps three values of each corrected branch.
    Raises ValueError for an eta that is not finite, or evaluations that are not indices.
    Source: Gradient-Optimized Cache, arXiv 2503.05156.
    """

    eta: float = 1.2
    evaluations: tuple[int, ...] | None = PUBLISHED
    pairs: bool = False

    def __post_init__(self) -> None:
        is_number = isinstance(self.eta, int | float) and not isinstance(self.eta, bool)
        if not is_number or not math.isfinite(self.eta):
            raise ValueError(f"Goc: eta is {self.eta!r:.40}, wanted a finite number such as 1.2")
        if not isinstance(self.pairs, bool):
            raise ValueError(f"Goc: pairs is {self.pairs!r:.40}, wanted True or False")
        if not isinstance(self.evaluations, tuple | list | None):
            raise ValueError(f"Goc: evaluations is {self.evaluations!r:.40}, wanted indices")
        for s in self.evaluations or ():
            if isinstance(s, bool) or not isinstance(s, int) or s < 0:
                raise ValueError(f"Goc: evaluations has {s!r:.40}, wanted indices from 0 on")

    def predictions(self, schedule: CacheSchedule) -> Predictions:
        """The corrected values of a schedule.

        Raises ValueError where there are pairs and the branches are not attn-0, mlp-0, attn-1, ...
        """
        chosen = range(3, schedule.steps) if self.evaluations is None else self.evaluations
        corrects = ~schedule.compute
        if self.pairs:
            corrects &= _other_is_reused(schedule)
        terms = {
            (s, int(k)): [(s - 1, 1.0 + self.eta), (s - 2, -self.eta)]
            for s in chosen
            if 2 <= s < schedule.steps
            for k in np.flatnonzero(corrects[s])
        }
        return Predictions.from_terms(schedule.steps, schedule.num_branches, terms)


def _other_is_reused(schedule: CacheSchedule) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """For every branch, whether the other one of its block is reused."""
    blocks = [name.rpartition("-")[2] for name in schedule.branches]
    even, odd = blocks[::2], blocks[1::2]
    if even != odd:
        raise ValueError(
            "Goc: pairs are for a schedule whose branches are attn-0, mlp-0, attn-1, ..., got "
            f"{', '.join(schedule.branches[:3])}; use pairs=False"
        )
    pairs = ~schedule.compute.reshape(schedule.steps, -1, 2)
    other: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = pairs[:, :, ::-1].reshape(
        schedule.steps, -1
    )
    return other
