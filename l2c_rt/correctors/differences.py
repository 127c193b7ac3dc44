"""Differences of the outputs that a branch has computed, as coefficients over those outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions

Coefficients = dict[int, float]
"""Evaluation -> the coefficient of the output computed there."""


def finite_differences(computed: Sequence[int], order: int) -> list[Coefficients]:
    """The differences of order 0, 1, ... after the last of the `computed` evaluations.

    A new difference is that of the two newest of the order below, over the distance of the two
    newest evaluations: without rescaling where distances differ, as TaylorSeer has it.  Order m is
    there from the (m + 1)-th computed evaluation on.
    """
    differences: list[Coefficients] = []
    for i, evaluation in enumerate(computed):
        newest: list[Coefficients] = [{evaluation: 1.0}]
        for before in differences[:order]:
            distance = evaluation - computed[i - 1]
            newest.append(_over(newest[-1], before, distance))
        differences = newest
    return differences


def weighted(differences: Sequence[Coefficients], weights: Sequence[float]) -> Coefficients:
    """The sum of weights times differences."""
    total: Coefficients = {}
    for difference, weight in zip(differences, weights, strict=True):
        for evaluation, coefficient in difference.items():
            total[evaluation] = total.get(evaluation, 0.0) + weight * coefficient
    return total


def extrapolated(
    schedule: CacheSchedule,
    order: int,
    weight: Callable[[int, int], float],
    rounding: str | None = None,
) -> Predictions:
    """Predictions by differences up to `order`; `weight(i, distance)` is that of order i.

    `distance` is how many evaluations the last computed one is back.  A branch that has computed
    one output only is reused, or with `rounding` rounded.
    """
    columns: dict[bytes, dict[int, Coefficients]] = {}
    terms: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for k in range(schedule.num_branches):
        column = schedule.compute[:, k]
        key = column.tobytes()
        if key not in columns:
            columns[key] = _column(column.tolist(), order, weight, 2 - bool(rounding))
        for s, coefficients in columns[key].items():
            terms[s, k] = sorted(coefficients.items())
    return Predictions.from_terms(schedule.steps, schedule.num_branches, terms, rounding=rounding)


def _column(
    computes: Sequence[bool], order: int, weight: Callable[[int, int], float], least: int
) -> dict[int, Coefficients]:
    predicted: dict[int, Coefficients] = {}
    computed: list[int] = []
    for s, computes_here in enumerate(computes):
        if computes_here:
            computed.append(s)
            continue
        # Older outputs have no part in differences of this order.
        differences = finite_differences(computed[-order - 1 :], order)
        weights = [weight(i, s - computed[-1]) for i in range(len(differences))]
        if len(differences) >= least:
            predicted[s] = weighted(differences, weights)
    return predicted


def _over(new: Coefficients, old: Coefficients, distance: int) -> Coefficients:
    difference = {evaluation: c / distance for evaluation, c in new.items()}
    for evaluation, c in old.items():
        difference[evaluation] = difference.get(evaluation, 0.0) - c / distance
    return difference
