"""The models, presets and loops that the ladder of equalities is climbed with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from published_loops import ddim_sample_loop, dpm_solver_loop
from published_outputs import Golden
from toys import toy_dit, toy_uvit

MODELS: dict[str, Callable[..., Any]] = {"dit": toy_dit, "uvit": toy_uvit}
PRESETS = {
    "dit-ddim-20": "l2c/dit-xl-2-256/ddim-20",
    "dit-ddim-50": "l2c/dit-xl-2-256/ddim-50",
    "uvit-dpm-20": "l2c/uvit-h-2-256/dpm-20",
    "uvit-dpm-50": "l2c/uvit-h-2-256/dpm-50",
}
VARIANTS = {
    "dit": {},
    "dit-patch-1": {"patch_size": 1, "in_channels": 4},
    "dit-no-sigma": {"learn_sigma": False},
    "uvit": {},
    "uvit-time-mlp": {"mlp_time_embed": True},
    "uvit-no-conv": {"conv": False},
}


def variant(name: str) -> Any:
    return MODELS[name.partition("-")[0]](**VARIANTS[name])


def published_loop(golden: Golden, fast: Any, predictions: list[torch.Tensor]) -> torch.Tensor:
    def keep(step: int, out: torch.Tensor) -> None:
        predictions.append(out[0, : golden.noise.shape[1]].clone())

    if golden.family == "dit":
        return ddim_sample_loop(
            fast.forward_with_cfg, golden.noise, golden.labels, golden.null_label, golden.steps,
            golden.guidance, keep,
        )  # fmt: skip
    return dpm_solver_loop(
        fast, golden.noise, golden.labels, golden.null_label, golden.steps, golden.guidance, keep
    )
