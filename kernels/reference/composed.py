"""Composed weights, made anew where a weight has changed."""

from __future__ import annotations

import torch
from torch import Tensor

ODD = 0x1E3779B1


def weight_bits(weight: Tensor, bits: Tensor) -> Tensor:
    words = weight.reshape(-1).view(torch.int32).long()
    places = torch.arange(len(words), device=words.device)
    odd = ((places * ODD) | 1) % 2**32
    # Whole numbers of 64 bits wrap, of which the lower 32 are those of the sum.
    total = (words * odd).sum() + bits.long()
    signed = (total + 2**31) % 2**32 - 2**31
    return bits.copy_(signed)


def composed_product(
    weight: Tensor,
    before: Tensor,
    taken: Tensor | None,
    now: Tensor,
    known: Tensor,
    out: Tensor,
    rounded: Tensor | None = None,
) -> Tensor:
    if torch.equal(now, known):
        return out
    total = weight.to(before.dtype) @ before
    out.copy_(total if taken is None else total + taken)
    if rounded is not None:
        rounded.copy_(out)
    return out
