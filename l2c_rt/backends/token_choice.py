"""Which tokens of a branch are computed: scores of their attention, ages, and the choice by them.

All on the device, with shapes that depend on the number of tokens alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from l2c_rt.schedule.tokens import TokenRule

CELL = 2
"""Tokens along each side of a cell, of which the best one's score is raised."""


def attention_scores(attention: Tensor) -> Tensor:
    """How much attention each token gets, as a unit vector over the tokens, in float32.

    Shapes: attention [B, heads, T, T], each row of sum 1 -> [B, T].
    """
    return unit(attention.sum(dim=(1, 2), dtype=torch.float32))


def value_norm_scores(v: Tensor) -> Tensor:
    """Sum over heads of 1 - |v|, as a unit vector over the tokens, in float32.

    Shapes: v [B, heads, T, head dim] -> [B, T].
    """
    return unit((1 - v.float().norm(dim=-1)).sum(dim=1))


def stream_scores(score: str, x: Tensor, kept: Tensor) -> Tensor:
    """1 - the cosine of a token and the output that is kept for it ("similarity"), or |x| ("norm"),
    as a unit vector over the tokens, in float32.

    Shapes: x, kept [B, T, D] -> [B, T].
    """
    if score == "norm":
        return unit(x.float().norm(dim=-1))
    return unit(1 - torch.cosine_similarity(x.float(), kept.float(), dim=-1))


def drawn_scores(rule: TokenRule, evaluation: int, state: int, like: Tensor) -> Tensor:
    """Numbers in 0..1, the same for both halves of the batch.  Shapes: like [B, T] -> [B, T]."""
    generator = torch.Generator().manual_seed(rule.seed)
    generator.manual_seed(int(torch.randint(1 << 31, (), generator=generator)) + evaluation)
    generator.manual_seed(int(torch.randint(1 << 31, (), generator=generator)) + state)
    rows, tokens = like.shape
    half = torch.rand(-(-rows // 2), tokens, generator=generator).to(like.device)
    return torch.cat([half, half])[:rows]


def choose(scores: Tensor, ages: Tensor, rule: TokenRule, count: int) -> Tensor:
    """The `count` tokens of the highest sums in each row.

    Shapes: scores, ages float32 [B, T] -> int64 [B, count].  The last of the T tokens that make a
    square are the image's, row by row.
    """
    sums = scores + rule.age_weight * (ages / rule.age_unit)
    if rule.bonus:
        sums = _raised(sums, rule.bonus)
    return torch.topk(sums, count, dim=-1, sorted=False).indices


def choose_and_age(
    scores: Tensor, ages: Tensor, rule: TokenRule, count: int
) -> tuple[Tensor, Tensor]:
    """`choose`, and the ages behind it: 0 of the chosen, one more of all others."""
    chosen = choose(scores, ages, rule, count)
    return chosen, (ages + 1).scatter(1, chosen, 0.0)


def fresh_state(scores: Tensor) -> Tensor:
    """Scores and ages of tokens that were all computed now.  Shapes: [B, T] -> [2, B, T]."""
    return torch.stack([scores, torch.zeros_like(scores)])


def _raised(sums: Tensor, bonus: float) -> Tensor:
    """With the best sum in each cell multiplied by 1 + bonus."""
    rows, tokens = sums.shape
    side = grid_side(tokens)
    prefix, image = sums[:, : tokens - side**2], sums[:, tokens - side**2 :]
    half = side // CELL
    cells = (
        image.reshape(rows, half, CELL, half, CELL).transpose(2, 3).reshape(rows, -1, CELL * CELL)
    )
    best = cells.argmax(dim=-1, keepdim=True)
    cells = cells.scatter(-1, best, cells.gather(-1, best) * (1 + bonus))
    image = cells.view(rows, half, half, CELL, CELL).transpose(2, 3).reshape(rows, -1)
    return torch.cat([prefix, image], dim=1)


def grid_side(tokens: int) -> int:
    """The side of the image among `tokens`, of which up to two come before it."""
    for prefix in range(3):
        side = math.isqrt(max(tokens - prefix, 0))
        if side * side == tokens - prefix:
            return side
    return 0


def unit(scores: Tensor) -> Tensor:
    """Scores as a vector of length 1 over the tokens.  Shapes: [B, T] -> [B, T]."""
    return torch.nn.functional.normalize(scores, dim=-1)
