"""Rows in 8 bits with a scale each, and their products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_rt.kernels._launch import RowTile

Pair = tuple[Tensor, Tensor]
LARGEST = 448.0
SMALLEST = 1e-12
"""Of |x| in a row, so that zeros have a scale too."""


def quantize_rows(
    x: Tensor, gelu: str | None = None, out: Pair | None = None, tile: RowTile | None = None
) -> Pair:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = wide if gelu is None else F.gelu(wide, approximate=gelu)
    scales = wide.abs().amax(-1).clamp_min(SMALLEST) / LARGEST
    values = (wide / scales[..., None]).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    if out is None:
        return values, scales.flatten().float()
    return out[0].copy_(values), out[1].copy_(scales.flatten())


def scaled_linear(x: Pair, weight: Pair, bias: Tensor | None, out: Tensor) -> Tensor:
    rows = x[0].float().flatten(0, -2) * x[1][:, None]
    y = F.linear(rows, weight[0].float() * weight[1][:, None])
    y = y if bias is None else y + bias.float()
    return out.copy_(y.view_as(out))
