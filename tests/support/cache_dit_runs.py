"""cache-dit itself on small models, and ours beside it: one case, two runs.

Every case is options of its `DBCacheConfig`, and of the configuration of a calibrator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from small_diffusers import SMALL, shared
from torch import Tensor, nn

import l2c_rt as rt
from l2c_rt import methods
from l2c_rt.runtime.last_run import Act

BLOCKS = {"flux": (4, 8), "dit": (12,), "wan": (6,)}
LISTS = ("transformer_blocks", "single_transformer_blocks")
FEW = {"flux": 28, "dit": 20, "wan": 20}


@dataclass(frozen=True)
class Case:
    """A model, and the options of both configurations under their published names.

    With `lists` Flux's two lists of blocks are decided about one by one, and `modifiers` are the
    options that are others for each of them.
    """

    model: str
    options: Mapping[str, Any]
    calibrator: Mapping[str, Any] = field(default_factory=dict)
    method: str = "DBCache"
    lists: bool = False
    modifiers: tuple[Mapping[str, Any], ...] = ()

    @property
    def steps(self) -> int:
        return FEW[self.model]

    @property
    def calls(self) -> int:
        return 2 if self.model == "wan" else 1


@dataclass(frozen=True)
class Ran:
    """What a run gave: outputs, and by decision whether all that it is about was computed."""

    outputs: list[Tensor]
    computed: list[bool]


def theirs(case: Case) -> Ran:
    """The run of cache-dit's own program."""
    import cache_dit
    from cache_dit.caching.cache_contexts.cache_manager import CachedContextManager

    model = _model(case)
    kind = getattr(cache_dit, f"{case.method}Config")
    config = kind(
        num_inference_steps=case.steps, enable_separate_cfg=case.calls == 2, **case.options
    )
    along_modes = case.calibrator.get("calibrator_type") == "dmd"
    kind_of = "DMDCalibratorConfig" if along_modes else "TaylorSeerCalibratorConfig"
    calibrator = getattr(cache_dit, kind_of)(**case.calibrator) if case.calibrator else None
    computed: list[bool] = []
    decide = CachedContextManager.can_cache

    def noted(self: Any, *args: Any, **kwargs: Any) -> bool:
        cached = bool(decide(self, *args, **kwargs))
        computed.append(not cached)
        return cached

    adapter = _adapter(case, model, kind)
    cache_dit.enable_cache(adapter, cache_config=config, calibrator_config=calibrator)
    CachedContextManager.can_cache = noted
    try:
        return Ran(list(SMALL[case.model][1](model, case.steps)), computed)
    finally:
        CachedContextManager.can_cache = decide
        cache_dit.disable_cache(model)


def _adapter(case: Case, model: Any, kind: Any) -> Any:
    """What cache-dit is given: the model, or its lists of blocks."""
    import cache_dit

    if not case.lists:
        return model
    modifiers = [
        cache_dit.ParamsModifier(cache_config=kind().reset(**options)) for options in case.modifiers
    ]
    return cache_dit.BlockAdapter(
        transformer=model, blocks=[getattr(model, name) for name in LISTS],
        forward_pattern=[cache_dit.ForwardPattern.Pattern_1] * 2, check_forward_pattern=False,
        params_modifiers=modifiers or None,
    )  # fmt: skip


def ours(case: Case) -> Ran:
    """The run of the same options by `rt.compile`."""
    _, calls, times = SMALL[case.model]
    options = {**case.options, **case.calibrator}
    if case.calibrator and "calibrator_type" not in case.calibrator:
        options.setdefault("taylorseer_order", 1)
    if case.lists:
        options["blocks"] = LISTS
        options["params_modifiers"] = dict(zip(LISTS, case.modifiers, strict=False))
    model = shared(case.model, *BLOCKS[case.model])
    fast = rt.compile(
        model, getattr(methods, case.method)(**options), steps=case.steps, timesteps=times(case.steps),
        calls_per_step=case.calls,
    )  # fmt: skip
    outputs, last = list(calls(fast, case.steps)), fast.last_run
    firsts = [last.branches.index(part.blocks[0]) for part in fast.bound_model.dynamic.parts]
    return Ran(outputs, np.ravel(last.acts[:, :, firsts] == Act.COMPUTED).tolist())


def _model(case: Case) -> nn.Module:
    model: nn.Module = SMALL[case.model][0](*BLOCKS[case.model])
    return model
