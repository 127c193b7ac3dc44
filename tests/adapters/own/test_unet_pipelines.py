"""Compiled U-Nets in diffusers' own pipelines, with their schedulers and guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cached_oracle import Oracle
from diffusers import (
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor
from unets import draw, sd_like, sdxl_like, shared

import l2c_rt as rt
from l2c_rt.policies import DeepCache, nonuniform

STEPS = 9
pytestmark = pytest.mark.usefixtures("shared_probes")


def sd(scheduler: Any) -> Any:
    pipe = StableDiffusionPipeline(
        None, None, None, shared(sd_like), scheduler, None, None, requires_safety_checker=False
    )
    return pipe, {"prompt_embeds": draw(1, 1, 7, 16), "negative_prompt_embeds": draw(2, 1, 7, 16)}


def sdxl(scheduler: Any) -> Any:
    pipe = StableDiffusionXLPipeline(
        None, None, None, None, None, shared(sdxl_like), scheduler, add_watermarker=False
    )
    text = {"prompt_embeds": draw(1, 1, 7, 16), "negative_prompt_embeds": draw(2, 1, 7, 16)}
    pooled = {
        "pooled_prompt_embeds": draw(3, 1, 32),
        "negative_pooled_prompt_embeds": draw(4, 1, 32),
    }
    return pipe, text | pooled


def ddim() -> DDIMScheduler:
    return DDIMScheduler()


def pndm() -> PNDMScheduler:
    return PNDMScheduler(skip_prk_steps=True)


class InTheModelsPlace:
    """Calls something else; its attributes are the model's."""

    def __init__(self, model: Any, call: Callable[..., Any]) -> None:
        self.model, self.call = model, call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def picture(pipe: Any, unet: Any, text: dict[str, Tensor]) -> Tensor:
    """Final latents of 16 x 16."""
    pipe.unet = unet
    pipe.set_progress_bar_config(disable=True)
    out: Tensor = pipe(
        **text, height=128, width=128, num_inference_steps=STEPS, output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    return out


@pytest.mark.parametrize("scheduler", [ddim, pndm])
@pytest.mark.parametrize("make", [sd, sdxl])
def test_computing_everything_gives_the_pipelines_own_latents(make: Any, scheduler: Any) -> None:
    pipe, text = make(scheduler())
    unet = pipe.unet
    expected = picture(pipe, unet, text)
    fast = rt.compile(unet, DeepCache(), steps=STEPS, timesteps=pipe.scheduler.timesteps)
    assert torch.equal(picture(pipe, fast, text), expected)


# Every two of a pipeline, a scheduler and a policy.
@pytest.mark.parametrize(
    ("policy", "make", "scheduler"),
    [
        (DeepCache(3, 1), sd, ddim),
        (DeepCache(3, 1), sdxl, pndm),
        (DeepCache(2, 4), sd, pndm),
        (DeepCache(2, 4), sdxl, ddim),
        (DeepCache(3, 0, nonuniform(4)), sd, ddim),
        (DeepCache(3, 0, nonuniform(4)), sdxl, pndm),
    ],
)
def test_cached_latents_are_those_of_the_oracle_and_of_the_second_run(
    policy: DeepCache, make: Any, scheduler: Any
) -> None:
    pipe, text = make(scheduler())
    unet = pipe.unet
    pipe.scheduler.set_timesteps(STEPS)
    fast = rt.compile(unet, policy, steps=STEPS, timesteps=pipe.scheduler.timesteps)
    paths = {site.name: site.children[-1] for site in fast.bound_model.sites}
    oracle = Oracle(unet, fast.schedule, paths)
    first = picture(pipe, fast, text)
    assert torch.equal(first, picture(pipe, InTheModelsPlace(unet, oracle), text))
    assert torch.equal(first, picture(pipe, fast, text))
    assert not torch.equal(first, picture(pipe, unet, text))
    assert (fast.summary().runs, fast.summary().abandoned) == (2, 0)


def test_the_second_evaluation_of_a_timestep_of_pndm_is_cached_like_the_first() -> None:
    scheduler = pndm()
    scheduler.set_timesteps(STEPS)
    fast = rt.compile(shared(sd_like), DeepCache(2, 3), timesteps=scheduler.timesteps)
    assert np.flatnonzero(fast.schedule.compute.all(axis=1)).tolist() == [0, 4, 6, 8]


@pytest.mark.parametrize("make", [sd, sdxl])
def test_an_enabled_pipeline_gives_what_a_compiled_unet_gives(make: Any) -> None:
    pipe, text = make(ddim())
    unet = pipe.unet
    pipe.scheduler.set_timesteps(STEPS)
    fast = rt.compile(unet, DeepCache(3, 1), timesteps=pipe.scheduler.timesteps)
    expected = picture(pipe, fast, text)
    pipe.unet = unet
    with rt.enable(pipe, DeepCache(3, 1), steps=STEPS):
        assert isinstance(pipe.unet, type(unet))
        assert torch.equal(picture(pipe, pipe.unet, text), expected)
    assert pipe.unet is unet
