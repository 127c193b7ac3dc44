"""The planned schedule of a search: exact where errors add up."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from l2c_rt.searching.anchored import anchored, planned_anchored
from l2c_rt.searching.columns import ages_of, columns, planned, reused_share


def cost_of(compute: np.ndarray, errors: np.ndarray, prices: np.ndarray) -> float:
    ages = ages_of(compute)
    total = 0.0
    for (s, k), age in np.ndenumerate(ages):
        if s:
            total += prices[k] if age == 0 else errors[s, k, age - 1] if age <= 2 else np.inf
    return total


def test_columns_are_the_cheapest_of_all():
    random = np.random.default_rng(0)
    errors, prices = random.random((6, 2, 2)), np.array([0.4, 0.6])
    found = columns(errors, prices)
    for k in range(2):
        one, price = errors[:, k : k + 1], prices[k : k + 1]
        best = min(
            cost_of(np.array([[True], *([c] for c in rest)]), one, price)
            for rest in product((True, False), repeat=5)
        )
        assert cost_of(found[:, k : k + 1], one, price) == pytest.approx(best)


def reuses_anchors_only(compute: np.ndarray) -> bool:
    ages = ages_of(compute)
    return all(compute[s - age].all() for (s, _), age in np.ndenumerate(ages) if age)


def test_of_all_schedules_that_reuse_only_what_full_evaluations_computed_the_cheapest_is_found():
    random = np.random.default_rng(0)
    errors, prices = random.random((6, 2, 2)), np.array([0.4, 0.6])
    tables = (np.array(cells).reshape(5, 2) for cells in product((True, False), repeat=10))
    every = [np.vstack([np.ones((1, 2), np.bool_), table]) for table in tables]
    allowed = [table for table in every if reuses_anchors_only(table)]
    best = min(cost_of(table, errors, prices) for table in allowed)
    assert cost_of(anchored(errors, prices), errors, prices) == pytest.approx(best)
    assert reuses_anchors_only(anchored(errors, prices))
    assert best > cost_of(columns(errors, prices), errors, prices)


@pytest.mark.parametrize("plan", [planned, planned_anchored])
@pytest.mark.parametrize("reuse", [0.0, 0.2, 0.5])
def test_the_share_is_reached_and_no_cell_more_is_reused(plan, reuse):
    errors = np.random.default_rng(1).random((12, 8, 4)).cumsum(axis=2)
    costs = np.array([1.0, 2.0] * 4)
    compute = plan(errors, costs, reuse)
    assert plan is planned or reuses_anchors_only(compute)
    share = reused_share(compute, costs)
    assert reuse - 1e-9 <= share <= reuse + 2.0 / (12 * costs.sum()) + 1e-9
    assert compute[0].all()
    assert ages_of(compute).max() <= 4


def test_cells_of_infinite_error_are_computed():
    errors = np.ones((6, 2, 2))
    errors[:, 1] = np.inf
    assert planned(errors, np.ones(2), 0.2)[:, 1].all()
