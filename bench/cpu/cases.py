"""The models and inputs of the CPU benchmarks, for the published schedules, at smaller widths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from weights import fill_deterministic

from l2c_rt.models import DiT, UViT
from l2c_rt.presets import load
from l2c_rt.schedule.cache_schedule import CacheSchedule

PRESET = "l2c/dit-xl-2-256/ddim-20"
DEPTH, HEAD_WIDTH = 28, 64


def dit(width: int, quick: bool) -> DiT:
    """Depth 28, 256 tokens, as the presets need; with `quick` 16 tokens and a width of 32."""
    model = DiT(depth=DEPTH, num_classes=10, hidden_size=32 if quick else width,
                num_heads=2 if quick else width // HEAD_WIDTH,
                input_size=8 if quick else 32)  # fmt: skip
    fill_deterministic(model, 0)
    return model.eval().requires_grad_(False)


def uvit(width: int, quick: bool) -> UViT:
    """Depth 28, 258 tokens, as the presets need; with `quick` 18 tokens and a width of 32."""
    model = UViT(depth=DEPTH, num_classes=11, embed_dim=32 if quick else width, in_chans=4,
                 num_heads=2 if quick else width // HEAD_WIDTH, patch_size=2, conv=False,
                 img_size=8 if quick else 32)  # fmt: skip
    fill_deterministic(model, 0)
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Case:
    """A width, a dtype of model and latents' products, and a number of images."""

    width: int
    dtype: torch.dtype
    images: int
    quick: bool = False

    @property
    def name(self) -> str:
        return f"w{self.width}-{str(self.dtype).removeprefix('torch.')}-n{self.images}"

    @cached_property
    def model(self) -> DiT:
        return dit(self.width, self.quick).to(self.dtype)

    @cached_property
    def schedule(self) -> CacheSchedule:
        return load(PRESET)

    @cached_property
    def noise(self) -> Tensor:
        """Shapes: [n, 4, H, W], in the model's dtype."""
        side = self.model.x_embedder.grid * self.model.patch_size
        drawn = np.random.default_rng(0).standard_normal((self.images, 4, side, side))
        return torch.from_numpy(drawn).to(self.dtype)

    @cached_property
    def labels(self) -> Tensor:
        return torch.arange(3, 3 + self.images)
