"""Weights in the layout that kernels read: made anew before every run, never kept from one.

A write through `.data` leaves no mark in PyTorch, so a copy made earlier could be stale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import FusableAttention, FusableModel, OuterLayers
from l2c_rt.kernels.operands import FinalLinear, PatchEmbedding


class WeightCopies:
    """Static copies of the few weights whose layout differs, and views of those as they are."""

    def __init__(self, fusable: FusableModel, outer: OuterLayers, guided: int) -> None:
        self._patches, self._positions = outer.patches, outer.positions
        conv = outer.patches.weight
        embed = torch.empty(conv[0].numel(), len(conv), dtype=conv.dtype, device=conv.device)
        bias, patch = outer.patches.bias, outer.patches.kernel_size[0]
        assert bias is not None
        positions = torch.empty_like(outer.positions(), memory_format=torch.contiguous_format)
        self.embedding = PatchEmbedding(embed, bias.detach(), positions, patch)
        linear = outer.linear
        channels = min(guided, linear.out_features // patch**2)
        self.final = FinalLinear(linear.weight.detach(), _bias(linear), patch, channels)
        self._packed: dict[str, tuple[FusableAttention, Tensor, Tensor | None]] = {}
        for name, part in fusable.branches.items():
            if isinstance(part.inner, FusableAttention) and len(part.inner.inputs) > 1:
                self._packed[name] = _room_for(part.inner)

    def refresh(self) -> None:
        """Copy what has another layout here; capturable."""
        self.embedding.weight.copy_(self._patches.weight.detach().flatten(1).t())
        self.embedding.positions.copy_(self._positions().detach())
        for inner, weight, bias in self._packed.values():
            torch.cat([m.weight.detach() for m in inner.inputs], out=weight)
            if bias is not None:
                torch.cat([m.bias.detach() for m in inner.inputs], out=bias)

    def qkv(self, branch: str, inner: FusableAttention) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the packed input linear of an attention."""
        if branch in self._packed:
            return self._packed[branch][1:]
        (linear,) = inner.inputs
        return linear.weight.detach(), None if linear.bias is None else linear.bias.detach()

    @property
    def nbytes(self) -> int:
        copies = [self.embedding.weight, self.embedding.positions]
        copies += [weight for _, weight, _ in self._packed.values()]
        return sum(t.numel() * t.element_size() for t in copies)


def _bias(linear: torch.nn.Linear) -> Tensor:
    """Zeros stand for a bias that is not there; kernels at the ends always add one."""
    if linear.bias is not None:
        return linear.bias.detach()
    return linear.weight.new_zeros(linear.out_features)


def _room_for(inner: FusableAttention) -> tuple[FusableAttention, Tensor, Tensor | None]:
    like = inner.inputs[0].weight
    rows = sum(m.out_features for m in inner.inputs)
    weight = torch.empty(rows, like.shape[1], dtype=like.dtype, device=like.device)
    biases = [m.bias for m in inner.inputs]
    has_bias = biases[0] is not None
    return (
        inner,
        weight,
        torch.empty(rows, dtype=like.dtype, device=like.device) if has_bias else None,
    )
