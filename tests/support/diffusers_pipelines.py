"""Tiny pipelines of diffusers: their real loops and schedulers, no text encoder, no VAE."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers_image_families import IMAGE_FAMILIES
from diffusers_more_image_families import MORE_IMAGE_FAMILIES
from diffusers_more_video_families import MORE_VIDEO_FAMILIES
from diffusers_video_families import VIDEO_FAMILIES
from torch import Tensor

FAMILIES = IMAGE_FAMILIES | MORE_IMAGE_FAMILIES | VIDEO_FAMILIES | MORE_VIDEO_FAMILIES
STEPS = 6


def embeds(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(5))


def prompts(*shape: int) -> dict[str, Tensor]:
    return {"prompt_embeds": embeds(*shape)}


def guided(
    *shape: int, mask: torch.dtype | None = None, name: str = "attention_mask"
) -> dict[str, Any]:
    """A prompt and a negative one, with their masks."""
    given: dict[str, Any] = {
        "prompt_embeds": embeds(*shape), "negative_prompt_embeds": embeds(*shape, scale=0.5),
    }  # fmt: skip
    if mask is not None:
        ones = torch.ones(shape[:2], dtype=mask)
        prefix = "prompt_" if name == "attention_mask" else "prompt_embeds_"
        given |= {f"{prefix}{name}": ones, f"negative_{prefix}{name}": ones}
    return given


def size(height: int, **more: Any) -> dict[str, Any]:
    return {"height": height, "width": height, **more}


@dataclass(frozen=True)
class TinyPipeline:
    """`scheduler` is a class of diffusers and its options; `calls` are made in a step."""

    family: str
    inputs: Mapping[str, Any]
    scheduler: str = "FlowMatchEulerDiscreteScheduler"
    options: Mapping[str, Any] = field(default_factory=dict)
    calls: int = 1

    def build(self, name: str, **parts: Any) -> Any:
        """The pipeline of class `name`; `parts` take the place of those of the table."""
        diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
        kind = getattr(diffusers, name)
        names = [n for n, p in inspect.signature(kind.__init__).parameters.items()
                 if n != "self" and p.default is p.empty]  # fmt: skip
        parts = (
            dict.fromkeys(names)
            | {
                "transformer": FAMILIES[self.family].build(),
                "scheduler": getattr(diffusers, self.scheduler)(**self.options),
            }
            | parts
        )
        pipe = kind(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe


def draw(pipe: Any, inputs: Mapping[str, Any], steps: int = STEPS, **more: Any) -> Tensor:
    """The latents at the end of the pipeline's loop."""
    torch.manual_seed(0)
    given = dict(inputs, num_inference_steps=steps, return_dict=False, output_type="latent", **more)
    if "generator" in inspect.signature(pipe.__call__).parameters:
        given["generator"] = torch.Generator().manual_seed(0)
    with torch.no_grad():
        out = pipe(**given)
    while not isinstance(out, Tensor):
        out = out[0]
    return out


BOOL, LONG, FLOAT = torch.bool, torch.long, torch.float32
NO_BINS = {"prompt": None, "negative_prompt": None, "use_resolution_binning": False}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SHIFTING = {
    "base_shift": 0.25, "max_shift": 0.75, "base_image_seq_len": 256, "use_dynamic_shifting": True,
}  # fmt: skip

PIPELINES: dict[str, TinyPipeline] = {
    "AuraFlowPipeline": TinyPipeline("AuraFlow", guided(1, 7, 32, mask=FLOAT) | size(64)),
    "ChromaPipeline": TinyPipeline("Chroma", guided(1, 7, 32, mask=BOOL) | size(64), calls=2),
    "CogVideoXPipeline": TinyPipeline(
        "CogVideoX", guided(1, 8, 8) | size(64, num_frames=1), "CogVideoXDDIMScheduler"
    ),
    "CogView4Pipeline": TinyPipeline(
        "CogView4", guided(1, 8, 8) | size(64), options=SHIFTING, calls=2
    ),
    "FluxPipeline": TinyPipeline(
        "Flux", prompts(1, 7, 32) | {"pooled_prompt_embeds": embeds(1, 32)} | size(64)
    ),
    "Flux2Pipeline": TinyPipeline("Flux2", prompts(1, 7, 32) | size(64)),
    "HunyuanVideoPipeline": TinyPipeline(
        "HunyuanVideo",
        prompts(1, 12, 16) | {"pooled_prompt_embeds": embeds(1, 8)}
        | {"prompt_attention_mask": torch.ones(1, 12)} | size(64, num_frames=1),
    ),
    "LTXPipeline": TinyPipeline("LTX", guided(1, 7, 16, mask=BOOL) | size(64, num_frames=9)),
    "Lumina2Pipeline": TinyPipeline("Lumina2", guided(1, 7, 32, mask=BOOL) | size(64), calls=2),
    "MochiPipeline": TinyPipeline("Mochi", guided(1, 7, 16, mask=BOOL) | size(64, num_frames=7)),
    "PixArtAlphaPipeline": TinyPipeline(
        "PixArt", guided(1, 7, 32, mask=FLOAT) | NO_BINS | size(64), "DPMSolverMultistepScheduler"
    ),
    "QwenImagePipeline": TinyPipeline(
        "QwenImage", guided(1, 7, 16, mask=LONG, name="mask") | size(64, true_cfg_scale=2.0),
        calls=2,
    ),
    "SanaPipeline": TinyPipeline(
        "Sana", guided(1, 7, 8, mask=FLOAT) | NO_BINS | size(256), "DPMSolverMultistepScheduler",
        FLOW,
    ),
    "StableDiffusion3Pipeline": TinyPipeline(
        "SD3",
        guided(1, 7, 32) | size(64) | {"pooled_prompt_embeds": embeds(1, 64)}
        | {"negative_pooled_prompt_embeds": embeds(1, 64, scale=0.5)},
    ),
    "WanPipeline": TinyPipeline(
        "Wan", guided(1, 12, 16) | size(32, num_frames=5), "UniPCMultistepScheduler",
        FLOW | {"flow_shift": 3.0}, calls=2,
    ),
    "ZImagePipeline": TinyPipeline(
        "ZImage",
        {"prompt_embeds": [embeds(8, 16)], "negative_prompt_embeds": [embeds(8, 16, scale=0.5)]}
        | size(64, guidance_scale=3.0),
    ),
}  # fmt: skip
