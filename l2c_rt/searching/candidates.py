"""Candidate schedules, tried in whole runs; the one that ends nearest to the full run is kept.

A candidate is planned from the errors.  The first ones take them as they are and growing with age,
by single branches, by whole evaluations and behind anchors.  The later ones look around the best so
far: what it computes is made dearer to reuse and what it reuses cheaper, and all is changed at
random, so that a few cells, branches or evaluations change sides at the same share.  Changes are
drawn by the number of the candidate, so that a search that is taken up tries what it would have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from l2c_rt.searching.anchored import planned_anchored
from l2c_rt.searching.columns import Array, BoolArray, planned, planned_whole

PLANS = (planned_whole, planned, planned_anchored)

FIRST = tuple((plan, growth) for growth in (1.0, 0.0, 2.0) for plan in PLANS)
"""Of the first candidates: how they are planned, and the power of the age that errors are
multiplied by.  A branch that is reused twice running starts from what is off already."""

STICKINESS = (0.5, 1.0, 2.0)
"""Logarithms of the factors that keep a candidate near the best."""

WIDTHS = (0.0, 0.5, 1.0)
"""Of the random changes of evaluations, of branches and of single cells."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best candidate so far, None before the first, and the digests of all."""

    compute: BoolArray | None = None
    error: float = np.inf
    tried: int = 0
    seen: frozenset[bytes] = field(default_factory=frozenset)


def candidate(best: Best, errors: Array, costs: Array, reuse: float, seed: int) -> BoolArray:
    """The next one.  Shapes: errors [S, K, A], costs [K] -> [S, K]."""
    ages = np.arange(1, errors.shape[2] + 1)
    if best.compute is None or best.tried < len(FIRST):
        plan, growth = FIRST[best.tried]
        return plan(errors * ages**growth, costs, reuse)
    random = np.random.default_rng([seed, best.tried])
    steps, branches, _ = errors.shape
    widths = random.choice(WIDTHS, 3)
    logs = (
        widths[0] * random.normal(size=(steps, 1))
        + widths[1] * random.normal(size=(1, branches))
        + widths[2] * random.normal(size=(steps, branches))
        + random.choice(STICKINESS) * np.where(best.compute, 1.0, -1.0)
    )
    plan = PLANS[random.integers(len(PLANS))]
    return plan(errors * np.exp(logs)[:, :, None] * ages, costs, reuse)


def try_next(
    best: Best, errors: Array, costs: Array, reuse: float, seed: int,
    measure: Callable[[BoolArray], float],
) -> Best:  # fmt: skip
    """The best after one more candidate; one that was tried already costs nothing."""
    compute = candidate(best, errors, costs, reuse, seed)
    digest = compute.tobytes()
    after = replace(best, tried=best.tried + 1, seen=best.seen | {digest})
    if digest in best.seen:
        return after
    error = measure(compute)
    if best.compute is None or error < best.error:
        return replace(after, compute=compute, error=error)
    return after
