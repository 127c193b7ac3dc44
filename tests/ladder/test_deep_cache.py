"""DeepCache against the published helper's own outputs, evaluation by evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from named_weights import named_weights
from published_outputs import FOLDER, relative
from safetensors.torch import load_file
from unets import draw

import l2c_rt as rt
from l2c_rt.policies import DeepCache

CASES = {"N3-b0": (3, 0), "N3-b5": (3, 5), "N3-b11": (3, 11), "N5-b6": (5, 6)}
GUIDANCE = 7.5


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def model() -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=2, norm_num_groups=8,
        block_out_channels=(32, 32, 64, 64), cross_attention_dim=24, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )  # fmt: skip
    for key, value in unet.state_dict().items():
        value.copy_(named_weights(key, value))
    return unet.eval()


@pytest.mark.parametrize("case", CASES)
def test_every_evaluation_is_that_of_the_published_helper(case: str) -> None:
    arrays = load_file(FOLDER / "deepcache-ddim-20.safetensors")
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, clip_sample=False,
        beta_schedule="scaled_linear", set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(20)
    fast = rt.compile(model(), DeepCache(*CASES[case]), steps=20, timesteps=scheduler.timesteps)
    assert fast.schedule.compute.all(axis=1).tolist() == arrays[f"{case}/decisions"].bool().tolist()
    x, text = draw(1, 1, 4, 8, 8), draw(2, 2, 7, 24)
    for t, expected in zip(scheduler.timesteps, arrays[f"{case}/outputs"], strict=True):
        out = fast(torch.cat([x, x]), t, text).sample
        assert relative(out, expected) < 1e-5
        uncond, cond = out.chunk(2)
        x = scheduler.step(uncond + GUIDANCE * (cond - uncond), t, x).prev_sample
    assert relative(x, arrays[f"{case}/latents"]) < 1e-5
