"""Weights of the published runs of caching methods: each a function of its name and shape alone."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def named_weights(key: str, like: Tensor) -> Tensor:
    """N(0, 1) by the name's crc32, over the root of the fan; near 1 for the weights of norms."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    fan = like.numel() // like.shape[0] if like.dim() > 1 else 50
    drawn = torch.randn(like.shape, generator=generator) * (1 / fan**0.5)
    is_norm = "norm" in key and key.endswith("weight") and like.dim() == 1
    return 1 + 0.1 * drawn if is_norm else drawn


@torch.no_grad()
def fill_named(model: nn.Module, scales: Mapping[str, float]) -> nn.Module:
    """Overwrite the weights; a name with a part that `scales` has is multiplied by its value."""
    for key, value in model.state_dict().items():
        if value.dtype.is_floating_point and not key.endswith("pos_embed"):
            scale = next((scales[part] for part in scales if part in key), 1.0)
            value.copy_(named_weights(key, value) * scale)
    return model.eval()
