"""Results where the caller wants them."""

from __future__ import annotations

from torch import Tensor

Pair = tuple[Tensor, Tensor]


def into(out: Tensor | None, value: Tensor) -> Tensor:
    return value if out is None else out.copy_(value.view_as(out))


def into_both(out: Pair | None, x: Tensor, h: Tensor) -> Pair:
    return (x, h) if out is None else (out[0].copy_(x), out[1].copy_(h))
