"""Candidate schedules, tried in whole runs; the one that ends nearest to the full run is kept.

A candidate is planned from the errors times factors: of the evaluation (how an error early or late
counts in the end), of the age, and of each branch and evaluation by itself.  Factors start near
those of the best candidate so far and are drawn by the number of the candidate, so that a search
that is taken up tries what it would have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from l2c_rt.searching.columns import Array, BoolArray, planned

SHAPE = 4
"""Factors of a candidate beside those of single evaluations and branches: the slope and bend over
evaluations, the growth with age, and how much errors differ."""

WIDE, NARROW = 1.0, 0.3
PHASE = 12
"""Candidates that look around widely; the later ones stay near the best."""


@dataclass(slots=True)
class Best:
    """The best candidate so far, by the logarithms of its factors."""

    factors: Array
    error: float = np.inf
    tried: int = 0
    schedules: set[bytes] = field(default_factory=set)

    @staticmethod
    def unknown(steps: int, branches: int) -> Best:
        """Before the first candidate, which is planned from the errors as they are."""
        return Best(np.zeros(SHAPE + steps + branches))


def factors_of(best: Best, seed: int) -> Array:
    """The factors of the next candidate."""
    if best.tried == 0:
        return best.factors
    random = np.random.default_rng([seed, best.tried])
    changes = random.normal(size=len(best.factors))
    width = WIDE if best.tried < PHASE else NARROW
    changes[:SHAPE] *= width * np.array([3.0, 3.0, 1.0, 0.3])
    changes[SHAPE:] *= width * (0.0 if best.tried < PHASE else 1.0)
    return best.factors + changes


def weighted(errors: Array, factors: Array) -> Array:
    """The errors [S, K, A] that a candidate is planned from."""
    steps, _, ages = errors.shape
    slope, bend, growth, contrast = factors[:SHAPE]
    place = np.linspace(-0.5, 0.5, steps)
    by_step = slope * place + bend * (place**2 - 1 / 12) + factors[SHAPE : SHAPE + steps]
    by_age = growth * np.log(np.arange(1, ages + 1))
    logs = by_step[:, None, None] + factors[SHAPE + steps :][None, :, None] + by_age
    with np.errstate(divide="ignore"):
        result: Array = np.exp(np.log(errors) * np.exp(contrast) + logs)
    return result


def try_next(
    best: Best, errors: Array, costs: Array, reuse: float, seed: int,
    measure: Callable[[BoolArray], float],
) -> Best:  # fmt: skip
    """The best after one more candidate; one that was tried already costs nothing."""
    factors = factors_of(best, seed)
    compute = planned(weighted(errors, factors), costs, reuse)
    seen = compute.tobytes()
    if seen in best.schedules:
        return Best(best.factors, best.error, best.tried + 1, best.schedules)
    error = measure(compute)
    if not error < best.error:
        factors, error = best.factors, best.error
    return Best(factors, error, best.tried + 1, best.schedules | {seen})
