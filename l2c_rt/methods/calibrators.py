"""What cache-dit's calibrators predict, as coefficients of outputs by evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile

from l2c_rt.correctors.differences import finite_differences, weighted
from l2c_rt.plan.mode_fit import ModeFit

LEAST_SNAPSHOTS = 4
"""Outputs that modes are found in."""

FIRST_DIFFERENCE = 3
"""The evaluation whose difference to an earlier one is the first that TaylorSeer's takes."""

MOST_STEPS = 3
"""Farther than that from the last computed output a prediction leans back to it."""


def taylor(computed: tuple[int, ...], step: int, begun: int, history: int) -> Mapping[int, float]:
    """Finite differences of the last `history` outputs computed since everything began anew.

    Source: cache-dit 1.5.3, TaylorSeerCalibrator.
    """
    early = [s for s in computed if begun <= s < begun + FIRST_DIFFERENCE][-1:]
    chain = early + [s for s in computed if s >= begun + FIRST_DIFFERENCE]
    differences = finite_differences(chain[-history:], history - 1)
    distance = step - computed[-1]
    weights = [distance**i / math.factorial(i) for i in range(len(differences))]
    return weighted(differences, weights)


def modes(computed: Sequence[int], step: int, rank: int, ridge: float) -> ModeFit | None:
    """Of the last outputs that are as far apart as the last two, where they are four or more.

    Source: cache-dit 1.5.3, DMDCalibrator.
    """
    spacing = computed[-1] - computed[-2] if len(computed) > 1 else 0
    apart = [computed[-1] - i * spacing for i in range(len(computed))]
    pairs = zip(reversed(computed), apart, strict=True)
    tail = list(takewhile(lambda pair: pair[0] == pair[1], pairs))
    if len(tail) < LEAST_SNAPSHOTS:
        return None
    values = tuple(step for step, _ in reversed(tail))
    return ModeFit(values, (step - computed[-1]) / spacing, rank, ridge)


def without_modes(computed: tuple[int, ...], step: int, begun: int) -> Mapping[int, float]:
    """What that calibrator takes where there are none: a step along the change from the last output
    but two, over the distance of the last two, as published."""
    last = computed[-1]
    if len(computed) < 3 or last - begun < FIRST_DIFFERENCE:
        return {last: 1.0}
    share = (step - last) / (last - computed[-2])
    return {last: 1.0 + share, computed[-3]: -share}


def foca(computed: tuple[int, ...], step: int) -> Mapping[int, float]:
    """From the last two outputs, computed or predicted themselves, along the last two that were
    used.

    F + h (F - F' + U - U'), F and F' the last two computed ones, U and U' the last two used ones, h
    half the distance to F, or beyond three evaluations 1.5 * 3 / distance.  Of one computed output
    only, it is that output.
    Source: arXiv 2508.16211, as in cache-dit 1.5.3, FoCaCalibrator.
    """
    last = computed[-1]
    if len(computed) < 2:
        return {last: 1.0}
    distance = step - last
    share = min(distance, MOST_STEPS) / 2 * min(1.0, MOST_STEPS / distance)
    used, before = _used(computed, step)
    total: dict[int, float] = {last: 1.0}
    for evaluation, sign in ((last, 1), (computed[-2], -1), (used, 1), (before, -1)):
        total[evaluation] = total.get(evaluation, 0.0) + sign * share
    return total


def _used(computed: tuple[int, ...], step: int) -> tuple[int, int]:
    """The evaluations of the last two values that were used: predictions count once two outputs
    had been computed before them."""
    last = computed[-1]
    if step - last > 1:
        return step - 1, step - 2
    return last, last - 1 if len(computed) > 2 else computed[-2]
