"""Results where the caller wants them."""

from __future__ import annotations

import torch
from torch import Tensor

from l2c_rt.kernels.operands import Rows
from l2c_rt.kernels.reference.quantized import quantize_rows

Pair = tuple[Tensor, Tensor]


def into(out: Tensor | None, value: Tensor) -> Tensor:
    return value if out is None else out.copy_(value.view_as(out))


def into_pair(out: Pair | None, x: Tensor, h: Tensor) -> Pair:
    return (x, h) if out is None else (out[0].copy_(x), out[1].copy_(h))


def into_rows(out: Rows | None, h: Tensor, dtype: torch.dtype) -> Rows:
    """A branch's input: in `dtype` where it is allocated here."""
    if isinstance(out, tuple):
        return quantize_rows(h.to(torch.bfloat16), out=out)
    return h.to(dtype) if out is None else out.copy_(h.view_as(out))


def into_both(out: tuple[Tensor, Rows] | None, x: Tensor, h: Tensor) -> tuple[Tensor, Rows]:
    return (x, h) if out is None else (out[0].copy_(x), into_rows(out[1], h, h.dtype))
