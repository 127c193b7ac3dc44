"""Scores of tokens, and the choice by them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_rt.kernels._launch import AttentionTile, RowTile
from l2c_rt.kernels.operands import Refreshes
from l2c_rt.kernels.reference._outputs import Pair, into


def attention_logs(
    qkv: Tensor,
    heads: int,
    scale: float | None = None,
    out: Tensor | None = None,
    tile: AttentionTile | None = None,
) -> Tensor:
    return into(out, _scores(qkv, heads, scale).logsumexp(dim=-1) / math.log(2))


def attention_received(
    qkv: Tensor,
    logs: Tensor,
    scale: float | None = None,
    out: Tensor | None = None,
    tile: AttentionTile | None = None,
) -> Tensor:
    scores = _scores(qkv, logs.shape[1], scale) / math.log(2)
    return into(out, torch.exp2(scores - logs.unsqueeze(-1)).sum(dim=-2))


def unit_scores(
    parts: Tensor,
    refreshes: Refreshes,
    inverted: bool = False,
    out: Pair | None = None,
    tile: RowTile | None = None,
) -> Pair:
    total = parts.shape[1] - parts.sum(dim=1) if inverted else parts.sum(dim=1)
    scores = F.normalize(total, dim=-1)
    stamps = refreshes.now().expand(scores.shape)
    if out is None:
        return scores, stamps.clone()
    return out[0].copy_(scores), out[1].copy_(stamps)


def choose_tokens(
    scores: Tensor,
    stamps: Tensor,
    refreshes: Refreshes,
    count: int,
    age_factor: float,
    bonus: float = 0.0,
    side: int = 0,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    now = refreshes.now()
    sums = scores + (now - stamps).to(scores.dtype) * age_factor
    if side and bonus:
        prefix, image = sums.shape[1] - side**2, sums[:, sums.shape[1] - side**2 :]
        # The rows and columns of cells, and the place in a cell.
        cells = image.view(len(sums), side // 2, 2, side // 2, 2).transpose(2, 3).flatten(3)
        best = cells.argmax(dim=-1, keepdim=True)
        raised = cells.scatter(-1, best, cells.gather(-1, best) * (1 + bonus))
        image = raised.view(*raised.shape[:3], 2, 2).transpose(2, 3).reshape(len(sums), -1)
        sums = torch.cat([sums[:, :prefix], image], dim=1)
    chosen = sums.argsort(dim=-1, descending=True, stable=True)[:, :count]
    stamps.scatter_(1, chosen, (now + 1).expand(chosen.shape))
    return into(out, chosen.contiguous())


def _scores(qkv: Tensor, heads: int, scale: float | None) -> Tensor:
    """In float32 at least, as the kernels keep them."""
    qkv = qkv if qkv.dtype == torch.float64 else qkv.float()
    b, t, packed = qkv.shape
    q, k, _ = qkv.view(b, t, 3, heads, packed // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0)
    return q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
