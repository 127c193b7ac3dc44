"""How many iterations each evaluation of a fixed-point model gets out of a budget for the run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def linear_budget(total: int, evaluations: int, *, increasing: bool = True) -> tuple[int, ...]:
    """At most `total` iterations over `evaluations`, shared out by a line, in execution order.

    `increasing` is the published name: towards the noisiest evaluation, which comes first.
    The published linear controller of Fixed Point Diffusion Models (arXiv 2401.08741): one
    iteration each, the rest in proportion to 0.5 .. 1.5, as many as possible of the first half
    rounded up.  Raises ValueError for fewer iterations than evaluations.
    """
    if evaluations < 1 or total < evaluations:
        raise ValueError(
            f"linear_budget: got {total} iterations for {evaluations} evaluations; each needs one"
        )
    weights = np.linspace(0.5, 1.5, evaluations)
    shares = 1 + (total - evaluations) * weights / weights.sum()
    shares = [float(share) for share in (shares if increasing else shares[::-1])]
    for raised in range(evaluations // 2, -1, -1):
        counts = [*map(math.ceil, shares[:raised]), *map(math.floor, shares[raised:])]
        if sum(counts) <= total:
            break
    return tuple(reversed(counts))


def taken_in_pairs(budget: Sequence[int]) -> tuple[int, ...]:
    """What the published program makes of a budget: every evaluation takes two entries, and after
    half of the run the budget starts over.  Raises ValueError for an odd number of evaluations."""
    if len(budget) % 2:
        raise ValueError(f"taken_in_pairs: wanted an even number of evaluations, got {len(budget)}")
    pairs = [first + second for first, second in zip(budget[::2], budget[1::2], strict=True)]
    return tuple(pairs + pairs)
