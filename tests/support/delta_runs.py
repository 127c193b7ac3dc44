"""A toy U-ViT in the delta form, on tapes."""

from __future__ import annotations

from typing import Any

import numpy as np
from taped_graphs import compile_taped
from toys import count_branches, toy_uvit

from l2c_rt.runtime.compiled import Compiled
from l2c_rt.schedule.cache_schedule import CacheSchedule

STEPS = 10
DELTAS = (2, 4, 6, 8)
"""The evaluations in the delta form: one that reuses everything, and more and more that is not."""


def delta_schedule(branches: int) -> CacheSchedule:
    """Every second evaluation computes everything, as published for U-ViT."""
    random = np.random.default_rng(1)
    compute = np.ones((STEPS, branches), dtype=bool)
    for step, reused in zip(DELTAS, (1.0, 0.95, 0.9, 0.8), strict=True):
        compute[step] = random.random(branches) >= reused
    return CacheSchedule(compute)


def compile_delta(model: Any = None, **options: Any) -> Compiled:
    """As on a GPU: references for kernels, tapes for graphs."""
    model = toy_uvit(depth=6) if model is None else model
    schedule = delta_schedule(count_branches(model))
    return compile_taped(model, schedule, **({"delta_form": True} | options))
