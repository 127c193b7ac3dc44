"""The matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_rt.kernels._launch import AttentionTile, MatrixTile, RowTile
from l2c_rt.kernels.reference._outputs import into


def attention(
    qkv: Tensor,
    heads: int,
    scale: float | None = None,
    out: Tensor | None = None,
    tile: AttentionTile | None = None,
) -> Tensor:
    b, t, packed = qkv.shape
    q, k, v = qkv.view(b, t, 3, heads, packed // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return into(out, mixed.transpose(1, 2).reshape(b, t, packed // 3))


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gelu: str | None = None,
    out: Tensor | None = None,
    tile: MatrixTile | None = None,
) -> Tensor:
    y = F.linear(x, weight, bias)
    return into(out, y if gelu is None else F.gelu(y, approximate=gelu))


def split_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    splits: int = 2,
    out: Tensor | None = None,
    tile: MatrixTile | None = None,
) -> Tensor:
    # Where the cuts lie is the kernel's affair: only the sum over the first axis is the contract.
    whole = F.linear(x, weight, bias).flatten(0, -2)
    parts = torch.zeros(splits, *whole.shape, dtype=whole.dtype, device=whole.device)
    parts[0] = whole
    return into(out, parts)


def split_sum(
    partial_sums: Tensor,
    out: Tensor,
    tile: RowTile | None = None,
    places: Tensor | None = None,
) -> Tensor:
    total = partial_sums[0]
    for partial in partial_sums[1:]:
        total = total + partial
    if places is not None:
        at = places[:, 0].long()
        out[at] = total.view(len(at), *out.shape[1:]).to(out.dtype)
        return out
    return into(out, total.view_as(out).to(out.dtype))


def skip_linear(
    x: Tensor,
    skip: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    tile: MatrixTile | None = None,
) -> Tensor:
    return into(out, F.linear(torch.cat([x, skip], dim=-1), weight, bias))
