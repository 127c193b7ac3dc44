"""cache-dit itself on small models, and ours beside it: one case, two runs.

Every case is options of its `DBCacheConfig`, and of the configuration of a calibrator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from small_diffusers import SMALL, shared
from torch import Tensor

import l2c_rt as rt
from l2c_rt.methods import DBCache

BLOCKS = {"flux": (4, 8), "dit": (12,), "wan": (6,)}
FEW = {"flux": 28, "dit": 20, "wan": 20}


@dataclass(frozen=True)
class Case:
    """A model, and the options of both configurations under their published names."""

    model: str
    options: Mapping[str, Any]
    calibrator: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return FEW[self.model]

    @property
    def calls(self) -> int:
        return 2 if self.model == "wan" else 1


@dataclass(frozen=True)
class Ran:
    """What a run gave: outputs, and by call whether all was computed."""

    outputs: list[Tensor]
    computed: list[bool]


def theirs(case: Case) -> Ran:
    """The run of cache-dit's own program."""
    import cache_dit
    from cache_dit.caching.cache_contexts.cache_manager import CachedContextManager

    model = SMALL[case.model][0](*BLOCKS[case.model])
    config = cache_dit.DBCacheConfig(
        num_inference_steps=case.steps, enable_separate_cfg=case.calls == 2, **case.options
    )
    calibrator = (
        cache_dit.TaylorSeerCalibratorConfig(**case.calibrator) if case.calibrator else None
    )
    computed: list[bool] = []
    decide = CachedContextManager.can_cache

    def noted(self: Any, *args: Any, **kwargs: Any) -> bool:
        cached = bool(decide(self, *args, **kwargs))
        computed.append(not cached)
        return cached

    cache_dit.enable_cache(model, cache_config=config, calibrator_config=calibrator)
    CachedContextManager.can_cache = noted
    try:
        cache_dit.refresh_context(model, cache_config=config, calibrator_config=calibrator)
        return Ran(list(SMALL[case.model][1](model, case.steps)), computed)
    finally:
        CachedContextManager.can_cache = decide
        cache_dit.disable_cache(model)


def ours(case: Case) -> Ran:
    """The run of the same options by `rt.compile`."""
    _, calls, times = SMALL[case.model]
    calibrator = dict(case.calibrator)
    if calibrator and "calibrator_type" not in calibrator:
        calibrator.setdefault("taylorseer_order", 1)
    fast = rt.compile(
        shared(case.model, *BLOCKS[case.model]),
        DBCache(**case.options, **calibrator),
        steps=case.steps,
        timesteps=times(case.steps),
        calls_per_step=case.calls,
    )
    outputs = list(calls(fast, case.steps))
    return Ran(outputs, np.ravel(fast.last_run.computed).tolist())
