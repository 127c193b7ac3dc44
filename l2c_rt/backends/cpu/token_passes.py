"""Some tokens of each sample: which ones, their input to a branch, and its output put back."""

from __future__ import annotations

import torch
from torch import Tensor

from l2c_rt._C import choose_tokens, scatter_rows
from l2c_rt.backends import token_choice
from l2c_rt.schedule.tokens import TokenRule


def choose_and_age(
    scores: Tensor, ages: Tensor, rule: TokenRule, count: int
) -> tuple[Tensor, Tensor]:
    """`token_choice.choose_and_age`, the places in rising order, of equal sums the first; the ages
    are written in place and must be contiguous."""
    scores = scores.contiguous()
    samples, tokens = scores.shape
    places = scores.new_empty(samples, count, dtype=torch.int64)
    choose_tokens(
        (scores.data_ptr(), ages.data_ptr(), places.data_ptr()),
        (samples, tokens, count),
        (rule.age_weight, rule.age_unit),
        token_choice.grid_side(tokens) if rule.bonus else 0,
        rule.bonus,
    )
    return places, ages


def put_back(rows: Tensor, out: Tensor, places: Tensor) -> None:
    """Rows [B, k, D] to their `places` [B, k] in `out` [B, T, D]; all contiguous, of one dtype."""
    samples, count, width = rows.shape
    scatter_rows(
        rows.data_ptr(), out.data_ptr(), places.data_ptr(), (samples, count, out.shape[1]),
        width * rows.itemsize,
    )  # fmt: skip
