"""A FLUX of diffusers small enough for a CPU, and its loop."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from weights import fill_deterministic

TEXT_TOKENS, TEXT_WIDTH, POOLED_WIDTH = 64, 256, 128


def flux_like(quick: bool) -> nn.Module:
    """4 double and 8 single blocks of width 768; 2 and 2 of width 32 with `quick`."""
    diffusers: Any = importlib.import_module("diffusers")
    heads, head, axes = (2, 16, (4, 6, 6)) if quick else (12, 64, (16, 24, 24))
    model: nn.Module = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2 if quick else 4,
        num_single_layers=2 if quick else 8, attention_head_dim=head, num_attention_heads=heads,
        joint_attention_dim=TEXT_WIDTH, pooled_projection_dim=POOLED_WIDTH, guidance_embeds=False,
        axes_dims_rope=axes,
    )  # fmt: skip
    fill_deterministic(model, 0)
    return model.eval().requires_grad_(False)


def flux_run(call: Callable[..., Any], steps: int, quick: bool) -> Callable[[], Tensor]:
    """A whole flow-matching run of 256 image tokens."""
    side = 4 if quick else 16
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, side * side, 16, generator=generator)
    text = torch.randn(1, TEXT_TOKENS, TEXT_WIDTH, generator=generator)
    pooled = torch.randn(1, POOLED_WIDTH, generator=generator)
    ids = torch.zeros(side, side, 3)
    ids[..., 1] += torch.arange(side)[:, None]
    ids[..., 2] += torch.arange(side)
    places = {"img_ids": ids.reshape(-1, 3), "txt_ids": torch.zeros(TEXT_TOKENS, 3)}

    @torch.no_grad()
    def run() -> Tensor:
        x = noise
        for step in range(steps):
            (velocity,) = call(
                hidden_states=x, encoder_hidden_states=text, pooled_projections=pooled,
                timestep=torch.full((1,), 1 - step / steps), return_dict=False, **places,
            )  # fmt: skip
            x = x - velocity / steps
        return x

    return run
