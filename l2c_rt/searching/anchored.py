"""The schedule of least predicted error whose reused outputs are all of evaluations in full.

Where an evaluation reuses a branch, those behind it compute from what is off, and give that on when
they are reused next: errors feed on themselves.  Here evaluations that compute everything, anchors,
are followed by some in which each branch is reused for a while and then computed until the next
anchor, so that whatever is reused is an anchor's.
"""

from __future__ import annotations

import numpy as np

from l2c_rt.searching.columns import Array, BoolArray, at_share


def planned_anchored(errors: Array, costs: Array, reuse: float) -> BoolArray:
    """As `planned`, of anchors and what follows them."""
    return at_share(anchored, errors, costs, reuse)


def anchored(errors: Array, prices: Array) -> BoolArray:
    """The cheapest anchors and lengths of reuse where computing a branch has a price.

    Shapes: errors [S, K, A], prices [K] -> [S, K].
    """
    steps, branches, ages = errors.shape
    best = np.full(steps + 1, np.inf)
    best[0] = 0.0
    parts: list[tuple[int, Array]] = [(0, np.zeros(0))] * (steps + 1)
    for s in range(steps):
        # [reused, K]: the errors of being reused so many times behind the anchor s.
        sums = np.zeros((1, branches))
        for end in range(s + 1, min(s + ages + 1, steps) + 1):
            length = end - s
            if length > 1:
                sums = np.vstack([sums, sums[-1] + errors[end - 1, :, length - 2]])
            totals = sums + (length - np.arange(length))[:, None] * prices
            total = best[s] + totals.min(axis=0).sum()
            if total < best[end]:
                best[end], parts[end] = total, (s, totals.argmin(axis=0))
    compute, end = np.ones((steps, branches), np.bool_), steps
    while end > 0:
        s, reused = parts[end]
        compute[s + 1 : end] = np.arange(1, end - s)[:, None] > reused
        end = s
    return compute
