"""Small U-Nets of diffusers, and DeepCache written out layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.utils.torch_utils import apply_freeu
from torch import Tensor, nn

from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.shells import shell_names


def sd_like() -> UNet2DConditionModel:
    """Three levels of two layers: 9 skips."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32, 32),
        layers_per_block=2, cross_attention_dim=16, attention_head_dim=4, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip


def sdxl_like() -> UNet2DConditionModel:
    """Two levels, no attention at the first, several blocks per attention: 6 skips."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=2, cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=8,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4),
        use_linear_projection=True, transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    ).eval()  # fmt: skip


@cache
def shared(make: Callable[[], UNet2DConditionModel]) -> UNet2DConditionModel:
    """One model for all tests that do not change it."""
    return make()


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(step: int, batch: int = 2, size: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, a falling timestep and the text of one evaluation."""
    return draw(step, batch, 4, size, size), torch.tensor(900 - 10 * step), draw(99, batch, 7, 16)


def rows(depths: Sequence[int | None], skips: int) -> CacheSchedule:
    """Evaluations that compute shells 0 .. depth, or everything."""
    compute = [[depth is None or q <= depth for q in range(skips + 1)] for depth in depths]
    return CacheSchedule(np.array(compute), shell_names(skips, mid=True))


class DeepCacheOracle:
    """The arithmetic of an SD-like U-Net, written out; layers inside of the depth do not run."""

    def __init__(self, unet: Any) -> None:
        self.unet, self.store = unet, dict[int, Tensor]()
        self.skips: list[Tensor] = []

    def __call__(
        self,
        depth: int | None,
        sample: Tensor,
        t: Tensor,
        text: Tensor,
        residuals: tuple[Sequence[Tensor], Tensor] | None = None,
    ) -> Tensor:
        unet = self.unet
        emb = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=t))
        x = unet.conv_in(sample)
        skips = [x]
        for layer in self._down():
            if depth is None or len(skips) <= depth:
                x = self._run(layer, x, emb, text)
                skips.append(x)
        self.skips = skips
        if residuals is not None:
            skips = [skip + extra for skip, extra in zip(skips, residuals[0], strict=False)]
        up = list(self._up())
        if depth is None:
            x = self.store[len(up)] = unet.mid_block(x, emb, encoder_hidden_states=text)
        for q, (block, layer) in zip(reversed(range(len(up))), up, strict=True):
            if depth is not None and q > depth:
                continue
            x = self.store[q + 1] if q == depth else x
            if residuals is not None and q + 1 == len(up):
                x = x + residuals[1]
            skip = skips[q]
            if getattr(block, "b1", None):
                scales = {name: getattr(block, name) for name in ("s1", "s2", "b1", "b2")}
                x, skip = apply_freeu(block.resolution_idx, x.clone(), skip, **scales)
            x = self.store[q] = self._run(layer, torch.cat([x, skip], dim=1), emb, text)
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))

    def _down(self) -> Any:
        for block in self.unet.down_blocks:
            yield from _layers(block)
            if block.downsamplers is not None:
                yield [block.downsamplers[0]]

    def _up(self) -> Any:
        for block in self.unet.up_blocks:
            *layers, last = _layers(block)
            sampler = [] if block.upsamplers is None else [block.upsamplers[0]]
            yield from ((block, layer) for layer in [*layers, last + sampler])

    def _run(self, layer: list[nn.Module], x: Tensor, emb: Tensor, text: Tensor) -> Tensor:
        for module in layer:
            kind = type(module).__name__
            if kind == "ResnetBlock2D":
                x = module(x, emb)
            elif kind == "Transformer2DModel":
                x = module(x, encoder_hidden_states=text, return_dict=False)[0]
            else:
                x = module(x)
        return x


def _layers(block: nn.Module) -> list[list[nn.Module]]:
    attentions = getattr(block, "attentions", None)
    return [[r] if attentions is None else [r, attentions[j]] for j, r in enumerate(block.resnets)]
