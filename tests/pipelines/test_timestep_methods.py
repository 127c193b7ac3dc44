"""Methods that go by timesteps in a pipeline: those of its scheduler, or given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    PNDMScheduler,
    PyramidAttentionBroadcastConfig,
    StableDiffusionPipeline,
)
from diffusers_pipelines import PIPELINES, STEPS, draw
from unets import sd_like

import l2c_rt as rt
from l2c_rt.methods import PAB, DeepCache, FasterCache, GuidanceInterval
from l2c_rt.policies import EveryN

METHOD = FasterCache(tensor_format="BFCHW", unconditional_batch_skip_range=3)


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_faster_cache_in_a_pipeline_is_diffusers_own() -> None:
    tiny = PIPELINES["CogVideoXPipeline"]
    pipe = tiny.build("CogVideoXPipeline")
    plain = draw(pipe, tiny.inputs)
    with rt.enable(pipe, METHOD, steps=STEPS) as enabled:
        first, second = draw(pipe, tiny.inputs), draw(pipe, tiny.inputs)
        assert enabled.models["transformer"].schedule.halves is not None
    assert torch.equal(first, second)
    pipe.transformer.enable_cache(
        FasterCacheConfig(
            attention_weight_callback=lambda _: 0.5, tensor_format="BFCHW",
            unconditional_batch_skip_range=3,
            current_timestep_callback=lambda: pipe.current_timestep,
        )
    )  # fmt: skip
    published = draw(pipe, tiny.inputs)
    torch.testing.assert_close(first, published, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, published, rtol=1e-4, atol=1e-5)


def test_cond_and_uncond_in_separate_calls_are_refused() -> None:
    tiny = PIPELINES["WanPipeline"]
    pipe = tiny.build("WanPipeline")
    with (
        rt.enable(pipe, GuidanceInterval(), steps=STEPS),
        pytest.raises(ValueError, match="cond and uncond are separate calls"),
    ):
        draw(pipe, tiny.inputs)


SHIFTED = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64}
"""The noise levels of larger images are higher, so that set_timesteps(n) alone raises."""


@pytest.mark.parametrize("method", ["pab", PAB()], ids=["by name", "made"])
def test_broadcasting_in_flux_goes_by_the_timesteps_of_each_run(method: str | PAB) -> None:
    tiny = PIPELINES["FluxPipeline"]
    pipe = replace(tiny, options=SHIFTED).build("FluxPipeline")
    sizes = [{"height": side, "width": side} for side in (64, 256, 64)]
    with rt.enable(pipe, method, steps=STEPS) as enabled:
        drawn, planned = [], []
        for size in sizes:
            drawn.append(draw(pipe, {**tiny.inputs, **size}))
            planned.append(enabled.models["transformer"].schedule)
            assert planned[-1].timesteps == tuple(pipe.scheduler.timesteps.tolist())
    assert planned[0] != planned[1]
    assert torch.equal(drawn[0], drawn[2])
    pipe.transformer.enable_cache(
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            current_timestep_callback=lambda: pipe.current_timestep,
        )
    )
    for size, ours in zip(sizes[:2], drawn[:2], strict=True):
        torch.testing.assert_close(ours, draw(pipe, {**tiny.inputs, **size}), rtol=1e-4, atol=1e-5)
        pipe.transformer._reset_stateful_cache()


@torch.no_grad()
def test_a_timestep_that_comes_twice_is_one_step_of_deep_cache() -> None:
    scheduler = PNDMScheduler(skip_prk_steps=True)
    pipe = StableDiffusionPipeline(
        None, None, None, sd_like(), scheduler, None, None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.vae_scale_factor = 1
    with rt.enable(pipe, DeepCache(2, 0), steps=STEPS + 1) as enabled:
        pipe(
            prompt_embeds=torch.ones(1, 7, 16), negative_prompt_embeds=torch.zeros(1, 7, 16),
            num_inference_steps=STEPS, height=16, width=16, output_type="latent",
        )  # fmt: skip
        times = pipe.scheduler.timesteps.tolist()
        assert times[1] == times[2]
        full = enabled.models["unet"].last_run.computed[:, 0]
    assert full.tolist() == [times.index(t) % 2 == 0 for t in times]


def test_without_steps_a_method_that_goes_by_timesteps_is_refused() -> None:
    pipe = PIPELINES["CogVideoXPipeline"].build("CogVideoXPipeline")
    with pytest.raises(ValueError, match="PAB goes by timesteps; give steps="):
        rt.enable(pipe, PAB())
    times = [900, 700, 500, 300, 200, 100]
    with rt.enable(pipe, PAB(), steps=STEPS, timesteps=times) as enabled:
        assert enabled.models["transformer"].schedule.timesteps == tuple(map(float, times))
    with pytest.raises(TypeError, match="timesteps= is not an option"):
        rt.enable(pipe, EveryN(2), steps=STEPS, timesteps=times)
