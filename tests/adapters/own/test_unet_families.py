"""Every U-Net of diffusers whose blocks are lists of layers, against hooks on a copy of the model;
what is built otherwise is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cached_oracle import Oracle
from diffusers import (
    I2VGenXLUNet,
    UNet2DConditionModel,
    UNet2DModel,
    UNet3DConditionModel,
    UNetMotionModel,
    UNetSpatioTemporalConditionModel,
)
from torch import nn
from toys import toy_dit
from unets import draw, rows, sdxl_like

import l2c_rt as rt
from l2c_rt.policies import DeepCache

TIMESTEPS = [900.0, 800.0, 700.0, 600.0, 500.0]
DEPTHS = (None, 0, 2, 1, 2)
CROSS = {"cross_attention_dim": 16, "norm_num_groups": 8}
SMALL = {"sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1}


def text(frames: int = 1) -> dict[str, Any]:
    return {"encoder_hidden_states": draw(99, 2 * frames, 7, 16)}


def in_blocks(kind: str, first: str = "CrossAttn", second: str = "") -> dict[str, Any]:
    up = kind.replace("Down", "Up")
    down = (f"{first}{kind}", f"{second}{kind}")
    return {"down_block_types": down, "up_block_types": (f"{second}{up}", f"{first}{up}")}


FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "SDXL-like": (
        sdxl_like, (2, 4, 16, 16),
        text() | {"added_cond_kwargs": {"text_embeds": draw(8, 2, 32), "time_ids": draw(7, 2, 6)}},
    ),
    "UNet2DModel": (
        lambda: UNet2DModel(**SMALL, **in_blocks("DownBlock2D", "", "Attn"), norm_num_groups=8),
        (2, 3, 16, 16), {},
    ),
    "UNet2DModel, resnets as samplers": (
        lambda: UNet2DModel(
            **SMALL, norm_num_groups=8, downsample_type="resnet", upsample_type="resnet",
            down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        ),
        (2, 3, 16, 16), {},
    ),
    "DeepFloyd-like": (
        lambda: UNet2DConditionModel(
            **SMALL, **CROSS, attention_head_dim=8,
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        ),
        (2, 4, 16, 16), text(),
    ),
    "UNet3DConditionModel": (
        lambda: UNet3DConditionModel(
            **SMALL, **CROSS, **in_blocks("DownBlock3D"), attention_head_dim=8
        ),
        (2, 4, 3, 16, 16), text(),
    ),
    "UNetMotionModel": (
        lambda: UNetMotionModel(
            **SMALL, **CROSS, **in_blocks("DownBlockMotion"), num_attention_heads=2,
            motion_num_attention_heads=2,
        ),
        (2, 4, 3, 16, 16), text(3),
    ),
    "UNetSpatioTemporalConditionModel": (
        lambda: UNetSpatioTemporalConditionModel(
            sample_size=16, in_channels=4, block_out_channels=(32, 64), layers_per_block=1,
            num_attention_heads=(2, 4), **in_blocks("DownBlockSpatioTemporal"),
            cross_attention_dim=16, addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24,
        ),
        (2, 3, 4, 16, 16),
        {"encoder_hidden_states": draw(9, 2, 1, 16), "added_time_ids": draw(7, 2, 3)},
    ),
    "I2VGenXLUNet": (
        lambda: I2VGenXLUNet(
            in_channels=4, out_channels=4, block_out_channels=(64, 128), layers_per_block=1,
            num_attention_heads=16, **in_blocks("DownBlock3D"), cross_attention_dim=16,
            norm_num_groups=2,
        ),
        (2, 4, 3, 16, 16),
        text() | {"fps": torch.tensor([8, 8]), "image_latents": draw(5, 2, 4, 3, 16, 16),
                  "image_embeddings": draw(6, 2, 16)},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixed_list_of_depths_is_bitwise_the_model_with_its_inputs_replaced(family: str) -> None:
    make, shape, extra = FAMILIES[family]
    model = make().eval()
    skips = len(rt.compile(model, DeepCache(), steps=1).schedule.branches) - 1
    schedule = rows(DEPTHS, skips)
    fast = rt.compile(model, schedule, timesteps=TIMESTEPS)
    paths = {site.name: site.children[-1] for site in fast.bound_model.sites}
    oracle = Oracle(model, schedule, paths)
    for step, depth in enumerate(DEPTHS):
        args = draw(step, *shape), torch.tensor(TIMESTEPS[step])
        out = fast(*args, **extra, return_dict=False)[0]
        assert torch.equal(out, oracle(*args, **extra, return_dict=False)[0])
        assert torch.equal(out, model(*args, **extra, return_dict=False)[0]) == (depth is None)
    assert fast.plan.num_slots == 3


def test_a_model_without_a_middle_block_has_no_branch_for_it() -> None:
    blocks = in_blocks("DownBlock2D", "", "")
    model = UNet2DModel(**SMALL, **blocks, mid_block_type=None, norm_num_groups=8).eval()
    fast = rt.compile(model, DeepCache(2, 2), timesteps=TIMESTEPS)
    assert fast.schedule.branches == ("shell-0", "shell-1", "shell-2", "shell-3")
    with pytest.raises(ValueError, match="branch is 3, and this U-Net has 0..2, counted from"):
        rt.compile(model, DeepCache(2, 3), timesteps=TIMESTEPS)


def k_blocks() -> nn.Module:
    return UNet2DConditionModel(
        **SMALL, **CROSS, down_block_types=("KDownBlock2D", "KCrossAttnDownBlock2D"),
        up_block_types=("KCrossAttnUpBlock2D", "KUpBlock2D"), mid_block_type=None,
        attention_head_dim=8, resnet_time_scale_shift="ada_group",
    )  # fmt: skip


def skip_blocks() -> nn.Module:
    return UNet2DModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("SkipDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "SkipUpBlock2D"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (k_blocks, "4 layers going down, conv_in included, .* and 2 layers going up"),
        (skip_blocks, "down_blocks.0 is a SkipDownBlock2D with .*skip_conv.* beside its layers"),
        (toy_dit, "wanted|has none"),
        (lambda: nn.Sequential(sdxl_like()), r"it wraps one: compile\(model.get_submodule\('0'\)"),
    ],
    ids=["blocks that share a skip", "blocks with a second path", "a transformer", "a wrapper"],
)
def test_other_models_are_refused_with_what_is_different(make: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        rt.compile(make().eval(), DeepCache(3, 0), steps=6)
