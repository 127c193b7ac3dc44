"""Candidate schedules, tried in whole runs; the one that ends nearest to the full run is kept.

A candidate is planned from the errors.  The first ones take them by a few weightings, by single
branches, by whole evaluations and behind anchors.  The later ones look around the best so far, by
any weighting: what it computes is made dearer to reuse and what it reuses cheaper, and all is
changed at random, so that a few cells, branches or stretches of evaluations change sides at the
same share.  Changes are drawn by the number of the candidate, so that a search that is taken up
tries what it would have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from l2c_rt.searching.anchored import planned_anchored
from l2c_rt.searching.columns import Array, BoolArray, planned, planned_whole
from l2c_rt.searching.weightings import ALL, CHEAP, EVEN, Measured, Weighting, drawn

PLANS = (planned_whole, planned, planned_anchored)


@dataclass(frozen=True, slots=True)
class Recipe:
    """By which errors a candidate is planned, and by which of `PLANS`."""

    weighting: Weighting
    plan: int

    def table(self, measured: Measured, reuse: float, changes: Array | None = None) -> BoolArray:
        """The schedule [S, K], the logarithms of the errors changed by so much [S, K]."""
        errors = self.weighting.of(measured)
        if changes is not None:
            errors = errors * np.exp(changes)[:, :, None]
        return PLANS[self.plan](errors, measured.costs, reuse)


EITHER = tuple(Recipe(w, plan) for w in (CHEAP, ALL) for plan in range(len(PLANS)))
"""What runs show of evaluations, one way and the other: judged by every run."""

FIRST = (*EITHER, *(Recipe(EVEN, plan) for plan in range(len(PLANS))))
"""The first candidates."""

SAME = 0.5
"""How often a later one has the plan of the best, and how often its weighting; else it has any."""

STICKINESS = (0.5, 1.0, 2.0)
"""Logarithms of the factors that keep a candidate near the best."""

WIDTHS = (0.0, 0.5, 1.0)
"""Of the random changes of evaluations, of branches and of single cells."""

MARGIN = 0.5
"""By how much, in the logarithm of the error, a candidate may be behind the best in the runs so far
together; farther behind it is given up."""

WORST = 700.0
"""The logarithm of the largest error."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best candidate so far, its errors in each run that judges, what it was planned by, and
    the number and the digests of all."""

    compute: BoolArray | None = None
    errors: tuple[float, ...] = ()
    recipe: Recipe = FIRST[0]
    tried: int = 0
    seen: frozenset[bytes] = field(default_factory=frozenset)

    @property
    def error(self) -> float:
        """The mean of the logarithms; infinite before the first."""
        return float(np.mean(self.errors)) if self.errors else np.inf


def candidate(best: Best, measured: Measured, reuse: float, seed: int) -> tuple[BoolArray, Recipe]:
    """The next one [S, K], and what it is planned by."""
    if best.compute is None or best.tried < len(FIRST):
        recipe = FIRST[best.tried]
        return recipe.table(measured, reuse), recipe
    random = np.random.default_rng([seed, best.tried])
    steps, branches, _ = measured.errors.shape
    widths = random.choice(WIDTHS, 3)
    changes = (
        widths[0] * _drift(random, steps)[:, None]
        + widths[1] * random.normal(size=(1, branches))
        + widths[2] * random.normal(size=(steps, branches))
        + random.choice(STICKINESS) * np.where(best.compute, 1.0, -1.0)
    )
    recipe = Recipe(
        best.recipe.weighting if random.random() < SAME else drawn(random),
        best.recipe.plan if random.random() < SAME else int(random.integers(len(PLANS))),
    )
    return recipe.table(measured, reuse, changes), recipe


def try_next(
    best: Best, measured: Measured, reuse: float, seed: int,
    judge: Callable[[BoolArray], Iterable[float]],
) -> Best:  # fmt: skip
    """The best after one more candidate, judged run by run; one that was tried already costs
    nothing, and none of `EITHER` is given up."""
    compute, recipe = candidate(best, measured, reuse, seed)
    digest = compute.tobytes()
    after = replace(best, tried=best.tried + 1, seen=best.seen | {digest})
    if digest in best.seen:
        return after
    margin = MARGIN if best.tried >= len(EITHER) else np.inf
    errors = raced(iter(judge(compute)), best.errors, margin)
    if errors is not None and (best.compute is None or np.mean(errors) < best.error):
        return replace(after, compute=compute, errors=errors, recipe=recipe)
    return after


def raced(
    errors: Iterator[float], others: tuple[float, ...], margin: float
) -> tuple[float, ...] | None:
    """The error in every run, or None where those so far are a margin behind the others'."""
    so_far: list[float] = []
    for error in errors:
        # What is no number is as far off as can be.
        so_far.append(error if error < WORST else WORST)
        if sum(so_far) - sum(others[: len(so_far)]) > margin and others:
            return None
    return tuple(so_far)


def _drift(random: np.random.Generator, steps: int) -> Array:
    """[S] of variance about 1: slow over the run, or of each evaluation by itself."""
    waves = min(int(random.choice((3, 9, steps))), steps)
    places = np.outer(np.arange(steps) + 0.5, np.arange(1, waves + 1))
    drift: Array = np.cos(np.pi * places / steps) @ random.normal(size=waves) * (2 / waves) ** 0.5
    return drift
