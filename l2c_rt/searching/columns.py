"""The schedule of least predicted error at a share of reuse, exact where errors add up.

A branch is a walk through the evaluations that either computes it or reuses its output at a growing
age, so that dynamic programming over the age finds its best column at a price of compute; the
price that gives the wanted share is found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

BISECTIONS = 60


def planned(errors: Array, costs: Array, reuse: float) -> BoolArray:
    """[S, K]: True computes; `reuse` of the cost of all cells is reused, or as near above it as
    whole cells allow, as far as ages do.

    Shapes: errors [S, K, A], of reuse at age 1 .. A, infinite where it is not possible; costs [K].
    """
    return at_share(columns, errors, costs, reuse)


def planned_whole(errors: Array, costs: Array, reuse: float) -> BoolArray:
    """As `planned`, of whole evaluations: all branches are computed or none, but for those that
    the share does not need reused."""
    whole = planned(errors.sum(axis=1, keepdims=True), np.ones(1), reuse)
    return _trimmed(whole.repeat(len(costs), axis=1), errors, costs, reuse)


def at_share(
    cheapest: Callable[[Array, Array], BoolArray], errors: Array, costs: Array, reuse: float
) -> BoolArray:
    """`cheapest(errors, prices [K])` at the price of computing that gives the share."""
    low, high = np.log(1e-30), np.log(1e30)
    for _ in range(BISECTIONS):
        price = (low + high) / 2
        if reused_share(cheapest(errors, costs * np.exp(price)), costs) >= reuse:
            high = price
        else:
            low = price
    return _trimmed(cheapest(errors, costs * np.exp(high)), errors, costs, reuse)


def reused_share(compute: BoolArray, costs: Array) -> float:
    """The share of the cost of all cells that is not computed."""
    return float((~compute * costs).sum() / (len(compute) * costs.sum()))


def columns(errors: Array, prices: Array) -> BoolArray:
    """The cheapest columns where computing a branch has a price.  Shapes: prices [K]."""
    steps, branches, ages = errors.shape
    best = np.full((branches, ages + 1), np.inf)
    best[:, 0] = 0.0
    came_from = np.zeros((steps, branches), np.int64)
    for s in range(1, steps):
        came_from[s] = best.argmin(axis=1)
        computed = best.min(axis=1) + prices
        best = np.concatenate([computed[:, None], best[:, :-1] + errors[s]], axis=1)
    compute = np.ones((steps, branches), np.bool_)
    for k in range(branches):
        age, s = int(best[k].argmin()), steps - 1
        while s > 0:
            compute[s - age + 1 : s + 1, k] = False
            s -= age
            age, s = int(came_from[s, k]), s - 1
    return compute


def ages_of(compute: BoolArray) -> npt.NDArray[np.int64]:
    """[S, K]: how many evaluations ago a reused branch was computed, 0 where it is computed."""
    ages = np.zeros(compute.shape, np.int64)
    for s in range(1, len(compute)):
        ages[s] = np.where(compute[s], 0, ages[s - 1] + 1)
    return ages


def _trimmed(compute: BoolArray, errors: Array, costs: Array, reuse: float) -> BoolArray:
    """Compute the worst reused cells that the share does not need, each the last of its reuse."""
    spare = (reused_share(compute, costs) - reuse) * len(compute) * costs.sum()
    computes_next = np.ones_like(compute)
    while True:
        ages = ages_of(compute)
        computes_next[:-1] = compute[1:]
        s, k = np.nonzero((ages > 0) & computes_next & (costs <= spare + 1e-9))
        if not len(s):
            return compute
        worst = np.argmax(errors[s, k, ages[s, k] - 1] / costs[k])
        compute[s[worst], k[worst]] = True
        spare -= costs[k[worst]]
