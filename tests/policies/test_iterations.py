"""Budgets of iterations: the published controller's lists, and how its program takes them."""

from __future__ import annotations

import pytest

from l2c_rt.policies.iterations import linear_budget, taken_in_pairs

PUBLISHED = {
    (120, 20, True): [8, 8, 7, 7, 7, 7, 6, 6, 6, 6, 6, 6, 6, 6, 5, 5, 5, 5, 4, 4],
    (120, 20, False): [3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 7, 7, 7, 7, 8, 8, 8, 8, 9, 9],
    (60, 20, True): [4] + 18 * [3] + [2],
    (60, 20, False): 10 * [2] + 10 * [4],
    (75, 50, True): 25 * [1] + 25 * [2],
    (75, 50, False): 25 * [1] + 25 * [2],
    (260, 10, True): [38, 35, 32, 30, 27, 25, 22, 20, 17, 14],
    (260, 10, False): [13, 16, 19, 21, 24, 28, 31, 33, 36, 39],
}


@pytest.mark.parametrize(("total", "evaluations", "increasing"), PUBLISHED)
def test_the_lists_are_those_of_the_published_controller(
    total: int, evaluations: int, increasing: bool
) -> None:
    budget = linear_budget(total, evaluations, increasing=increasing)
    assert list(budget) == PUBLISHED[total, evaluations, increasing]


def test_the_middle_of_an_odd_number_is_rounded_down() -> None:
    assert linear_budget(5, 3, increasing=False) == (1, 1, 2)


def test_the_published_program_takes_two_entries_for_each_evaluation_and_starts_over() -> None:
    assert taken_in_pairs(linear_budget(120, 20)) == 2 * (16, 14, 14, 12, 12, 12, 12, 10, 10, 8)
    with pytest.raises(ValueError, match="even number of evaluations, got 5"):
        taken_in_pairs([1, 2, 3, 4, 5])


@pytest.mark.parametrize("evaluations", [1, 2, 7, 50])
@pytest.mark.parametrize("per_evaluation", [1, 3.7, 12])
def test_no_budget_is_exceeded_and_every_evaluation_has_an_iteration(
    evaluations: int, per_evaluation: float
) -> None:
    total = int(evaluations * per_evaluation)
    for increasing in (True, False):
        budget = linear_budget(total, evaluations, increasing=increasing)
        assert len(budget) == evaluations
        assert total - evaluations / 2 - 1 <= sum(budget) <= total
        assert min(budget) >= 1


def test_too_small_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="got 9 iterations for 10 evaluations"):
        linear_budget(9, 10)
