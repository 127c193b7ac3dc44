"""Methods against the cache hooks of the installed diffusers, evaluation by evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
import torch
from diffusers import MagCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS
from method_goldens import SMALL
from published_outputs import relative

import l2c_rt as rt
from l2c_rt.methods import PAB, MagCache
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
