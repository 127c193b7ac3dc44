"""diffusers' own cache hooks on a model, by the cases of `published_cases`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
    hooks,
)
from diffusers.hooks.hooks import CacheContext, _set_cache_context
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS
from published_cases import PAB_NAMES, with_ratios
from torch import nn

Applied = tuple[Callable[[nn.Module, Any], None], Any]


def hooked(case: Mapping[str, Any], model: nn.Module, env: dict[str, Any]) -> tuple[Any, None]:
    """A factory of `published_cases`; its decisions are not read off."""
    if case["cfg"].get("ratios") == "own":
        case = with_ratios(case, model)
    apply, config = HOOKS[case["method"]](dict(case["cfg"]), lambda: env["t"])
    apply(model, config)

    def call(**arguments: Any) -> Any:
        context = CacheContext(
            env["branch"], step_index=env["step"], sigma=env["sigma"],
            num_inference_steps=env["steps"],
        )  # fmt: skip
        _set_cache_context(model, context)
        return model(**arguments)

    return call, None


def _fbc(options: dict[str, Any], t: Callable[[], float]) -> Applied:
    return hooks.apply_first_block_cache, FirstBlockCacheConfig(**options)


def _pab(options: dict[str, Any], t: Callable[[], float]) -> Applied:
    named = {PAB_NAMES.get(name, name): value for name, value in options.items()}
    config = PyramidAttentionBroadcastConfig(current_timestep_callback=t, **named)
    return hooks.apply_pyramid_attention_broadcast, config


def _faster(options: dict[str, Any], t: Callable[[], float]) -> Applied:
    weight = options.pop("weight", 0.5)
    weigh = options.pop("attention_weight_callback", lambda path, t: weight)
    for name in ("low_frequency_weight_callback", "high_frequency_weight_callback"):
        if name in options:
            options[name] = lambda _, factor=options[name]: factor(t())
    # Of Flux's attentions those of single blocks have no projection of their own after them.
    config = FasterCacheConfig(
        current_timestep_callback=t,
        attention_weight_callback=lambda m: weigh("single" * getattr(m, "pre_only", False), t()),
        **options,
    )
    return hooks.apply_faster_cache, config


def _taylor(options: dict[str, Any], t: Callable[[], float]) -> Applied:
    if isinstance(options.get("taylor_factors_dtype"), str):
        options["taylor_factors_dtype"] = getattr(torch, options["taylor_factors_dtype"])
    return hooks.apply_taylorseer_cache, TaylorSeerCacheConfig(**options)


def _mag(options: dict[str, Any], t: Callable[[], float]) -> Applied:
    ratios = options.pop("ratios", None)
    ratios = FLUX_MAG_RATIOS if isinstance(ratios, str) else ratios
    return hooks.apply_mag_cache, MagCacheConfig(mag_ratios=ratios, **options)


def _sea(options: dict[str, Any], t: Callable[[], float]) -> Applied:
    return hooks.apply_sea_cache, SeaCacheConfig(**options)


HOOKS: Mapping[str, Callable[[dict[str, Any], Callable[[], float]], Applied]] = {
    "fbc": _fbc, "pab": _pab, "faster": _faster, "taylor": _taylor, "mag": _mag, "sea": _sea,
}  # fmt: skip
