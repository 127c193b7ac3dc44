"""Methods that go by timesteps in a pipeline: those of its scheduler, or given."""

from __future__ import annotations

import pytest
import torch
from diffusers import FasterCacheConfig
from diffusers_pipelines import PIPELINES, STEPS, draw

import l2c_rt as rt
from l2c_rt.methods import PAB, FasterCache, GuidanceInterval
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


def test_a_scheduler_that_does_not_tell_its_timesteps_says_what_to_give() -> None:
    pipe = PIPELINES["CogVideoXPipeline"].build("CogVideoXPipeline")
    with pytest.raises(ValueError, match="PAB goes by timesteps; give steps="):
        rt.enable(pipe, PAB())
    pipe.scheduler.set_timesteps = lambda *_: exec("raise ValueError('mu')")
    with pytest.raises(ValueError, match=r"has none for 6 steps alone \(mu\); give enable"):
        rt.enable(pipe, PAB(), steps=STEPS)
    del pipe.scheduler.set_timesteps
    times = [900, 700, 500, 300, 200, 100]
    with rt.enable(pipe, PAB(), steps=STEPS, timesteps=times) as enabled:
        assert enabled.models["transformer"].schedule.timesteps == tuple(map(float, times))
    with pytest.raises(TypeError, match="timesteps= is not an option"):
        rt.enable(pipe, EveryN(2), steps=STEPS, timesteps=times)
