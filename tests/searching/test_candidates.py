"""Candidates of a search: by every weighting, near the best, and chosen by the mean of runs."""

from __future__ import annotations

import numpy as np
import pytest

from l2c_rt.searching.candidates import FIRST, MARGIN, PLANS, Best, candidate, raced, try_next
from l2c_rt.searching.columns import reused_share
from l2c_rt.searching.weightings import ALL, CHEAP, Measured, Weighting

REUSE = 0.5
STEPS, BRANCHES = 12, 6


def measured() -> Measured:
    random = np.random.default_rng(0)
    errors = random.random((STEPS, BRANCHES, 3)).cumsum(axis=2)
    return Measured(errors, random.normal(size=(2, STEPS)), np.array([1.0, 2.0] * 3))


def error_of(compute: np.ndarray, seed: int) -> float:
    """Of a schedule in a run, any number that is always the same."""
    digest = [seed, *np.packbits(compute).tolist()]
    return float(np.random.default_rng(digest).normal())


@pytest.mark.parametrize("seed", range(5))
def test_a_search_is_never_below_what_either_weighting_plans(seed):
    known, best = measured(), Best()

    def judge(compute):
        return (error_of(compute, seed + run) for run in range(2))

    for _ in FIRST:
        best = try_next(best, known, REUSE, seed, judge)
    plans = [plan(weighting.of(known), known.costs, REUSE)
             for weighting in (CHEAP, ALL) for plan in PLANS]  # fmt: skip
    assert best.error <= min(np.mean([*judge(table)]) for table in plans)
    assert best.error == np.mean([*judge(best.compute)])


def test_the_choice_is_by_the_mean_of_the_runs():
    """One run alone would take the candidate that the others are far off in."""
    errors = iter([(0.0, 0.0), (-3.0, 4.0), (0.2, -0.4), (-0.1, 0.0)])
    best, known = Best(), measured()
    chosen = []
    for _ in range(4):
        best = try_next(best, known, REUSE, 0, lambda _: next(errors))
        chosen.append(best.errors)
    assert chosen == [(0.0, 0.0), (0.0, 0.0), (0.2, -0.4), (0.2, -0.4)]


def test_later_candidates_are_kept_only_where_they_are_better():
    known, best, errors = measured(), Best(), []

    def judge(_):
        errors.append(float(np.random.default_rng(len(errors)).random()))
        yield errors[-1]

    for _ in range(30):
        best = try_next(best, known, REUSE, 0, judge)
    assert best.error == min(errors)
    assert best.tried == 30
    assert len(errors) > len(FIRST)


def test_candidates_are_of_whole_evaluations_of_branches_and_then_near_the_best():
    known = measured()
    tables = [candidate(Best(tried=i), known, REUSE, 0)[0] for i in range(2)]
    mixed = [bool(((t.any(axis=1)) & ~t.all(axis=1)).sum() > 1) for t in tables]
    assert mixed == [False, True]
    best = tables[1]
    at = [Best(best, (0.0,), FIRST[1], i) for i in range(len(FIRST), 40)]
    near = [candidate(place, known, REUSE, 0)[0] for place in at]
    changed = [(table != best).mean() for table in near]
    assert 0 < min(c for c in changed if c) < 0.2
    for table in (*tables, *near):
        unit = 2 / (STEPS * known.costs.sum())
        assert REUSE - 1e-9 <= reused_share(table, known.costs) <= REUSE + unit + 1e-9


def test_a_later_candidate_that_is_far_behind_is_given_up_before_its_last_run():
    runs = iter([MARGIN + 1.1, 0.0])
    assert raced(runs, (1.0, 1.0), MARGIN) is None
    assert list(runs) == [0.0]
    near = (MARGIN + 0.9, 0.0)
    assert raced(iter(near), (1.0, 1.0), MARGIN) == near


def test_a_run_that_ends_in_no_number_is_the_farthest_off():
    best = try_next(Best(), measured(), REUSE, 0, lambda _: [float("nan"), 0.0])
    assert np.isfinite(best.error)
    after = try_next(best, measured(), REUSE, 0, lambda _: [1.0, 1.0])
    assert after.errors == (1.0, 1.0)


def test_a_weighting_is_a_mean_of_both_at_a_power_and_by_age():
    errors = np.ones((2, 1, 3))
    known = Measured(errors, np.log([[1.0, 16.0], [4.0, 1.0]]), np.ones(1))
    np.testing.assert_allclose(CHEAP.of(known)[:, 0], [[1, 2, 3], [16, 32, 48]])
    np.testing.assert_allclose(ALL.of(known)[:, 0], [[4, 8, 12], [1, 2, 3]])
    np.testing.assert_allclose(Weighting(0.5, 0.5, 2.0).of(known)[:, 0, 1], [4 * 2**0.5, 8])
