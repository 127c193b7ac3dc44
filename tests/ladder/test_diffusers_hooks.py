"""Methods against the cache hooks of the installed diffusers, evaluation by evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS
from method_goldens import SMALL
from published_outputs import relative

import l2c_rt as rt
from l2c_rt.methods import PAB, DiffusersTaylorSeer, FasterCache, MagCache
from l2c_rt.methods.mag_cache import PUBLISHED

OWN = [1.0, 1.1, 1.08, 1.05, 0.97, 1.02, 1.0, 0.99, 1.03, 0.96, 0.94, 1.01, 0.9]


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def published(name, config, steps):
    """Every output of the model with diffusers' own hooks; of Wan's two calls, cond first."""
    make, calls, timesteps_of = SMALL[name]
    model, timesteps, calls_made = make(), timesteps_of(steps), count()
    current = {"t": None}
    lanes = 2 if name == "wan" else 1
    if hasattr(config, "current_timestep_callback"):
        config.current_timestep_callback = lambda: current["t"]
    model.enable_cache(config)

    def call(**arguments):
        k = next(calls_made)
        scale = 1000 if max(timesteps) <= 1 else 1
        current["t"] = timesteps[k // lanes] * scale
        with model.cache_context(("cond", "uncond")[k % lanes]):
            return model(**arguments)

    return list(calls(call, steps))


def ours(name, method, steps, **options):
    make, calls, timesteps_of = SMALL[name]
    lanes = 2 if name == "wan" else 1
    fast = rt.compile(
        make(), method, steps=steps, timesteps=timesteps_of(steps), calls_per_step=lanes, **options
    )
    return list(calls(fast, steps)), fast


def worst(outputs, expected):
    return max(relative(a, b) for a, b in zip(outputs, expected, strict=True))


MAG_CASES = {
    "flux_default": ("flux", 28, "flux", {}),
    "flux_fast": (
        "flux", 50, "flux", {"threshold": 0.24, "max_skip_steps": 5, "retention_ratio": 0.1},
    ),
    "flux_own": ("flux", 20, OWN, {"threshold": 0.15}),
    "wan_own": ("wan", 20, OWN, {"threshold": 0.12, "max_skip_steps": 2}),
}  # fmt: skip


@pytest.mark.parametrize("case", MAG_CASES)
def test_mag_cache_is_that_of_diffusers(case):
    name, steps, ratios, options = MAG_CASES[case]
    shipped = FLUX_MAG_RATIOS if ratios == "flux" else ratios
    config = MagCacheConfig(mag_ratios=shipped, num_inference_steps=steps, **options)
    outputs, fast = ours(name, MagCache(ratios, **options), steps)
    assert worst(outputs, published(name, config, steps)) < 1e-5
    assert fast.schedule.reuse_share > 0.2


def test_the_shipped_ratios_are_those_of_diffusers():
    assert list(PUBLISHED["flux"]) == pytest.approx(FLUX_MAG_RATIOS.tolist(), abs=1e-7)


@pytest.mark.parametrize("options", [{"threshold": 0.05}, {"max_skip_steps": 2},
                                     {"retention_ratio": 0.3}])  # fmt: skip
def test_another_threshold_count_or_retention_is_another_run(options):
    config = MagCacheConfig(mag_ratios=FLUX_MAG_RATIOS)
    outputs, _ = ours("flux", MagCache("flux", **options), 28)
    assert worst(outputs, published("flux", config, 28)) > 1e-4


def test_pab_of_other_ranges_and_windows_is_that_of_diffusers():
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=4, spatial_attention_timestep_skip_range=(50, 990)
    )
    method = PAB(4, spatial_attention_timestep_skip_range=(50, 990))
    outputs, _ = ours("cogvideox", method, 17)
    assert worst(outputs, published("cogvideox", config, 17)) < 1e-5


TAYLOR_CASES = {
    "flux_order_1": ("flux", {}),
    "flux_order_2": (
        "flux", {"cache_interval": 3, "disable_cache_before_step": 5, "max_order": 2},
    ),
    "flux_order_3_after": (
        "flux",
        {"cache_interval": 4, "disable_cache_before_step": 2, "disable_cache_after_step": 24,
         "max_order": 3},
    ),
    "flux_lite": ("flux", {"use_lite_mode": True}),
    "wan": ("wan", {"cache_identifiers": [r"blocks\.\d+\.attn1"], "cache_interval": 3}),
}  # fmt: skip


@pytest.mark.parametrize("case", TAYLOR_CASES)
def test_taylor_seer_is_that_of_diffusers(case):
    name, options = TAYLOR_CASES[case]
    config = TaylorSeerCacheConfig(taylor_factors_dtype=torch.float32, **options)
    outputs, fast = ours(name, DiffusersTaylorSeer(**options), 28)
    assert worst(outputs, published(name, config, 28)) < 1e-5
    assert fast.schedule.reuse_share > 0.3


@pytest.mark.parametrize("options", [{"max_order": 2}, {"disable_cache_before_step": 4}])
def test_another_order_or_warm_up_is_another_run(options):
    config = TaylorSeerCacheConfig(taylor_factors_dtype=torch.float32)
    outputs, _ = ours("flux", DiffusersTaylorSeer(**options), 28)
    assert worst(outputs, published("flux", config, 28)) > 1e-4


FASTER = [
    ("cogvideox", 20, {"tensor_format": "BFCHW"}, 0.5),
    ("cogvideox", 30, {
        "tensor_format": "BFCHW", "spatial_attention_block_skip_range": 3,
        "spatial_attention_timestep_skip_range": (-1, 900), "unconditional_batch_skip_range": 3,
        "unconditional_batch_timestep_skip_range": (-1, 950), "alpha_low_frequency": 1.2,
    }, 0.3),
    ("flux", 20, {"is_guidance_distilled": True, "tensor_format": "BCHW"}, 0.5),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize(("name", "steps", "options", "weight"), FASTER)
def test_faster_cache_is_diffusers_hook(name, steps, options, weight):
    config = FasterCacheConfig(attention_weight_callback=lambda _: weight, **options)
    outputs, _ = ours(name, FasterCache(attention_weight=weight, **options), steps)
    expected = published(name, config, steps)
    assert worst(outputs, expected) < 5e-6
    assert list(outputs[0].shape) == list(expected[-1].shape)
    make, calls, _ = SMALL[name]
    assert worst(list(calls(make(), steps)), expected) > 1e-3
