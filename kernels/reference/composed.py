"""Composed weights, made anew where a weight has changed."""

from __future__ import annotations

import torch
from torch import Tensor

ODD = 0x1E3779B1


def weight_bits(weight: Tensor, bits: Tensor, number: int) -> Tensor:
    words = weight.reshape(-1).view(torch.int32).long()
    places = torch.arange(len(words), device=words.device)
    odd = places * ODD & 0x7FFFFFFF | 1
    bits[number] += (words * odd & 0xFFFFFFFF).sum()
    return bits


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
