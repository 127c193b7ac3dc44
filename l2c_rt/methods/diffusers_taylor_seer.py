"""TaylorSeer as diffusers has it: by module, with warm-up and cool-down, and a lite mode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from l2c_rt.correctors.corrector import corrected
from l2c_rt.correctors.taylor import Taylor
from l2c_rt.methods.checks import check_int
from l2c_rt.policies.policy import full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule

if TYPE_CHECKING:
    from torch import nn

ATTENTION = (
    "^blocks.*attn", "^transformer_blocks.*attn", "^single_transformer_blocks.*attn",
    "^temporal_transformer_blocks.*attn",
)  # fmt: skip
BLOCKS = r"^[^.]*block[^.]*\.[^.]+$"
LAST = "proj_out"


@dataclass(frozen=True, slots=True)
class DiffusersTaylorSeer:
    """Extrapolates the outputs of the modules that patterns name, at all but some evaluations.

    Evaluation n computes where n < disable_cache_before_step, where n - disable_cache_before_step
    - 1 is a multiple of `cache_interval`, and from disable_cache_after_step on; the defaults
    compute 0, 1, 2, 4, 9, 14, ...  Elsewhere a module gives the sum of F_i u^i / i! up to
    `max_order`, u the distance to the last computed evaluation, F_i the differences of computed
    outputs; each tensor of a tuple by itself.  Kept are max_order + 1 outputs of each module.
    `cache_identifiers` are regular expressions that match whole module paths; None is attention in
    lists of blocks with a path that ends in attn, as published: where that is none (Wan, CogVideoX,
    LTX, DiT) diffusers caches nothing, and here ValueError is raised.  With `use_lite_mode` no
    block runs at predicted evaluations, and only the output of proj_out is extrapolated.
    `taylor_factors_dtype`: None keeps outputs in their own dtype and sums in float32; "float32" is
    the same for models in float32.  The published default rounds factors to bfloat16; for models
    in bfloat16 that is what None does.
    Source: arXiv 2503.06923; diffusers 0.42.1, TaylorSeerCacheConfig, whose field names and other
    defaults these are (skip_predict_identifiers is part of the lite mode).
    """

    cache_interval: int = 5
    disable_cache_before_step: int = 3
    disable_cache_after_step: int | None = None
    max_order: int = 1
    taylor_factors_dtype: str | None = None
    cache_identifiers: Sequence[str] | None = None
    use_lite_mode: bool = False

    def __post_init__(self) -> None:
        check_int("DiffusersTaylorSeer: cache_interval", self.cache_interval, 1)
        before = self.disable_cache_before_step
        check_int("DiffusersTaylorSeer: disable_cache_before_step", before, 1)
        if self.disable_cache_after_step is not None:
            check_int(
                "DiffusersTaylorSeer: disable_cache_after_step", self.disable_cache_after_step, 0
            )
        Taylor(self.max_order)
        if self.taylor_factors_dtype not in (None, "float32"):
            raise ValueError(
                f"DiffusersTaylorSeer: taylor_factors_dtype is {self.taylor_factors_dtype!r:.40}, "
                'wanted None or "float32"; factors are not rounded between evaluations'
            )
        if self.cache_identifiers is not None:
            object.__setattr__(self, "cache_identifiers", _patterns(self.cache_identifiers))

    def sites(self, model: nn.Module) -> tuple[str | tuple[str, ...], ...]:
        """The modules to extrapolate; in lite mode one site of all blocks and proj_out.

        Raises ValueError where the patterns name no module.
        """
        paths = [path for path, _ in model.named_modules() if path]
        if self.use_lite_mode:
            blocks = tuple(path for path in paths if re.fullmatch(BLOCKS, path))
            if LAST not in paths or not blocks:
                raise ValueError(
                    f"DiffusersTaylorSeer: lite mode needs blocks and {LAST}, and "
                    f"{type(model).__name__} has {len(blocks)} blocks, and "
                    f"{'a' if LAST in paths else 'no'} {LAST}; leave use_lite_mode out"
                )
            return ((*blocks, LAST),)
        patterns = ATTENTION if self.cache_identifiers is None else self.cache_identifiers
        named = tuple(p for p in paths if any(re.fullmatch(pattern, p) for pattern in patterns))
        if not named:
            raise ValueError(
                f"DiffusersTaylorSeer: {', '.join(patterns)} match no module of "
                f"{type(model).__name__}; name some: cache_identifiers="
                r'[r"transformer_blocks\.\d+\.attn1", ...]'
            )
        return named

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        n, before = np.arange(steps), self.disable_cache_before_step
        computed = (n < before) | ((n - before - 1) % self.cache_interval == 0)
        if self.disable_cache_after_step is not None:
            computed |= n >= self.disable_cache_after_step
        compute = full_table(steps, branches)
        compute[~computed] = False
        source = f"TaylorSeer of diffusers, every {self.cache_interval}, order {self.max_order}"
        return corrected(CacheSchedule(compute, branches, source=source), Taylor(self.max_order))


def _patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(
            f"DiffusersTaylorSeer: cache_identifiers: wanted a list of regular expressions, got "
            f"{patterns!r:.80}"
        )
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"DiffusersTaylorSeer: cache_identifiers: {pattern!r:.80}: {error}"
            ) from error
    return tuple(patterns)
