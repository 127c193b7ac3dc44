"""cache-dit on diffusers' DiT, driven as its documentation drives a transformer without pipeline.

Its thresholds are made for trained weights and never fire on random ones, so it is given a static
mask of steps instead, which leaves out as many branch calls as the learned schedule does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, cast

from torch import nn

ALWAYS = 1
"""Blocks that it computes at every step; fewer are not possible."""


def steps_mask(steps: int, blocks: int, reuse_share: float) -> list[int]:
    """1 where everything is computed, 0 where only `ALWAYS` blocks are: evenly spread, the first
    step computed, and about `reuse_share` of all branch calls left out."""
    cached = round(steps * reuse_share * blocks / (blocks - ALWAYS))
    places = {1 + (k * (steps - 1)) // cached for k in range(cached)}
    return [int(step not in places) for step in range(steps)]


def cache_steps(
    model: nn.Module, mask: list[int], compile: Callable[..., Any] | None
) -> tuple[Callable[[], None], Callable[[], dict[str, Any]]]:
    """Turn its cache on for runs of `len(mask)` steps.

    Returns what to call before a run, and what says how many steps of the last were cached.
    """
    cache_dit: Any = importlib.import_module("cache_dit")
    settings = _enable(cache_dit, model, mask)
    if compile is not None:
        for block in cast(Any, model).transformer_blocks:
            block.forward = compile(block.forward)

    def begin() -> None:
        cache_dit.refresh_context(model, num_inference_steps=len(mask))

    def facts() -> dict[str, Any]:
        # Of the transformer and of its list of blocks, which say the same.
        stats = cache_dit.summary(model, logging=False)[0]
        cached = len(stats.cached_steps)
        if cached != mask.count(0):
            raise RuntimeError(f"cache-dit cached {cached} steps, {mask} was asked for")
        return {"settings": str(settings), "cached_steps": cached}

    return begin, facts


def _enable(cache_dit: Any, model: Any, mask: list[int]) -> Any:
    """Its cache with the mask; returns the settings."""
    functors: Any = importlib.import_module("cache_dit.caching.patch_functors")
    settings = cache_dit.DBCacheConfig(
        num_inference_steps=len(mask),
        Fn_compute_blocks=ALWAYS,
        max_warmup_steps=1,
        steps_computation_mask=mask,
        steps_computation_policy="static",
    )
    adapter = cache_dit.BlockAdapter(
        transformer=model,
        blocks=model.transformer_blocks,
        forward_pattern=cache_dit.ForwardPattern.Pattern_3,
        patch_functor=functors.DiTPatchFunctor(),
        # Guidance is in the batch, as DiT's own pipeline does it.
        has_separate_cfg=False,
    )
    cache_dit.enable_cache(adapter, cache_config=settings)
    return settings
