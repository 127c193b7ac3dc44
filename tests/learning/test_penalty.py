"""The path of lambda, and the cut at a wanted share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from l2c_rt.learning.penalty import Prices, nested, shifted_to_share
from l2c_rt.policies.router import Router


def cells(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


ALL = torch.tensor([True])


def test_a_price_is_the_lambda_at_which_a_quadratic_error_gives_the_branch_up() -> None:
    # error = c (1 - w)^2: the best w for a lambda is 1 - lambda / (2 c), and 0 from 2 c on.
    c = torch.tensor([0.5, 2.0, 3.0, 10.0], dtype=torch.float64)
    for w in (0.1, 0.9):
        prices = Prices.unknown(1, torch.ones(4))
        prices.see(ALL, (2 * c * (1 - w))[None], torch.full((1, 4), w, dtype=torch.float64))
        assert prices.penalty(0.5) == pytest.approx(5.0)
        assert 1.0 < prices.penalty(0.3) < 4.0
        assert prices.penalty(1 / 3) == pytest.approx(4.0)


def test_lambda_rises_with_the_wanted_share() -> None:
    prices = Prices.unknown(1, torch.ones(5))
    prices.see(ALL, cells(5, 1, 4, 2, 3), cells(0, 0, 0, 0, 0))
    path = [prices.penalty(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert path == sorted(path)
    assert path[2] == pytest.approx(3.0)


def test_lambda_stays_positive_where_reusing_would_lower_the_error() -> None:
    prices = Prices.unknown(1, torch.ones(3))
    prices.see(ALL, cells(-1, -2, -3), cells(0.5, 0.5, 0.5))
    assert prices.penalty(0.5) > 0


def test_prices_remember_but_follow_and_rows_never_met_do_not_count() -> None:
    prices = Prices.unknown(2, torch.ones(2))
    first = torch.tensor([True, False])
    fall = torch.tensor([[1.0, 1.0], [100.0, 100.0]], dtype=torch.float64)
    none = torch.zeros(2, 2, dtype=torch.float64)
    prices.see(first, fall, none)
    assert prices.penalty(0.5) == pytest.approx(1.0)
    prices.see(first, 3 * fall, none)
    assert 1.0 < prices.penalty(0.5) < 3.0
    for _ in range(30):
        prices.see(first, 3 * fall, none)
    assert prices.penalty(0.5) == pytest.approx(3.0, rel=1e-3)


def test_nested_scores_fall_in_every_row_and_keep_their_order() -> None:
    logits = np.array([[2.0, 3.0, -1.0, -1.0], [0.0, 0.0, 0.0, 4.0]], np.float32)
    falling = nested(logits)
    assert falling.dtype == np.float32
    assert (np.diff(falling) < 0).all()
    np.testing.assert_allclose(falling, np.minimum.accumulate(logits, axis=1), atol=0.005)


def test_a_branch_that_costs_more_is_given_up_sooner() -> None:
    prices = Prices.unknown(1, torch.tensor([0.5, 1.5]))
    prices.see(ALL, cells(1, 1), cells(0, 0))
    assert prices.penalty(0.02) == pytest.approx(1 / 1.5, rel=0.05)
    assert prices.penalty(0.98) == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("reuse", [0.0, 0.2, 0.45, 0.5, 1.0])
@pytest.mark.parametrize("threshold", [0.1, 0.9])
def test_the_shifted_cut_reuses_exactly_the_share_and_keeps_the_order(
    reuse: float, threshold: float
) -> None:
    logits = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    moved, shift = shifted_to_share(logits, reuse, threshold)
    scores = 1 / (1 + np.exp(-moved.astype(np.float64)))
    assert (scores <= threshold).sum() == round(reuse * 40)
    assert np.argsort(moved, axis=None).tolist() == np.argsort(logits, axis=None).tolist()
    inside = np.abs(moved - math.log(threshold / (1 - threshold))) > 2e-3
    np.testing.assert_allclose((moved - logits)[inside], shift, atol=1e-5)


@pytest.mark.parametrize("reuse", [0.1, 0.5, 0.9])
def test_equal_scores_are_split_as_the_router_splits_them(reuse: float) -> None:
    logits = np.zeros((6, 4), np.float32)
    logits[::2] = np.repeat([[-5.0], [5.0], [5.0]], 4, axis=1)
    moved, _ = shifted_to_share(logits[::-2][::-1], reuse, 0.1)
    table = np.zeros((6, 4), np.float32)
    table[::2] = moved
    router = Router(table, "dit", 6)
    assert (~router.schedule().compute).sum() == round(reuse * 12)
    assert router.schedule() == router.schedule(reuse=reuse)
