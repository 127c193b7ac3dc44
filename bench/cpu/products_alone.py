"""The products of a whole run and nothing else: what no runtime of ours can be faster than."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cpu.cases import Case
from l2c_rt.backends.cpu.attention import Attention
from l2c_rt.backends.cpu.products import Products, product_chooser


def products_alone(case: Case, clone: Path | None = None) -> Callable[[], Tensor]:
    """Every linear and attention of the branches that the schedule computes, each by the product
    that is fastest here, on the case's own weights."""
    model, rows = case.model, case.schedule.compute
    products, attention = Products(product_chooser()), Attention(product_chooser())
    tokens, width = model.pos_embed.shape[1:]
    heads = model.num_heads
    h = torch.randn(case.images, tokens, width).to(case.dtype)

    @torch.no_grad()
    def run() -> Tensor:
        out = h
        for row in rows:
            for i, block in enumerate(model.blocks):
                if row[2 * i]:
                    qkv = products(h, block.attn.qkv).view(*h.shape[:2], 3, heads, -1)
                    mixed = attention(*qkv.unbind(2), (width // heads) ** -0.5)
                    out = products(mixed, block.attn.proj)
                if row[2 * i + 1]:
                    out = products(products(h, block.mlp.fc1, "tanh"), block.mlp.fc2)
        return out

    return run
