"""TaylorSeer as diffusers has it: by module, with warm-up and cool-down, and a lite mode."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from l2c_rt.correctors.corrector import corrected
from l2c_rt.correctors.taylor import Taylor, check_order
from l2c_rt.methods.checks import check_bool, check_int, set_patterns
from l2c_rt.policies.policy import BoolArray, full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import ROUNDINGS, Predictions

if TYPE_CHECKING:
    from torch import nn

ATTENTION = (
    "^blocks.*attn", "^transformer_blocks.*attn", "^single_transformer_blocks.*attn",
    "^temporal_transformer_blocks.*attn",
)  # fmt: skip
BLOCKS = r"^[^.]*block[^.]*\.[^.]+$"
LAST = "proj_out"
FACTORS = ("bfloat16", "float16", "float32", "None")


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
    LTX, DiT) diffusers caches nothing, and here ValueError is raised.  Modules that
    `skip_predict_identifiers` match give zeros where others are extrapolated.  With `use_lite_mode`
    no block runs at predicted evaluations, and only the output of proj_out is extrapolated.
    `taylor_factors_dtype`, a name or a torch.dtype: "bfloat16" and "float16" round F_i at every
    computed evaluation, and make the next ones from the rounded ones; "float32" and None do not
    round, and sum in float32.
    Source: arXiv 2503.06923; diffusers 0.42.1, TaylorSeerCacheConfig, whose field names and
    defaults these are.
    """

    cache_interval: int = 5
    disable_cache_before_step: int = 3
    disable_cache_after_step: int | None = None
    max_order: int = 1
    taylor_factors_dtype: object = "bfloat16"
    skip_predict_identifiers: Sequence[str] | None = None
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
        check_order("DiffusersTaylorSeer: max_order", self.max_order)
        check_bool("DiffusersTaylorSeer: use_lite_mode", self.use_lite_mode)
        dtype = str(self.taylor_factors_dtype).removeprefix("torch.")
        if dtype not in FACTORS:
            raise ValueError(
                f"DiffusersTaylorSeer: taylor_factors_dtype is {self.taylor_factors_dtype!r:.40}, "
                f"wanted one of {', '.join(FACTORS)}"
            )
        object.__setattr__(self, "taylor_factors_dtype", None if dtype == "None" else dtype)
        for name in ("cache_identifiers", "skip_predict_identifiers"):
            set_patterns("DiffusersTaylorSeer", self, name)

    @property
    def tells_paths_apart(self) -> bool:
        """Branches are to be named by the paths of their modules."""
        return bool(self.skip_predict_identifiers) and not self.use_lite_mode

    def sites(self, model: nn.Module) -> tuple[str | tuple[str, ...], ...]:
        """The modules to extrapolate; in lite mode one site of all blocks and proj_out.

        Raises ValueError where the patterns name no module.
        """
        # Lists are never called: diffusers' hooks on them do nothing.
        paths = [path for path, m in model.named_modules() if path and not _is_list(m)]
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
        named = tuple(p for p in paths if _matches(patterns, p))
        skipped = tuple(p for p in paths if _matches(self.skip_predict_identifiers or (), p))
        if not named and not skipped:
            raise ValueError(
                f"DiffusersTaylorSeer: {', '.join(patterns)} match no module of "
                f"{type(model).__name__}; name some: cache_identifiers="
                r'[r"transformer_blocks\.\d+\.attn1", ...]'
            )
        _refuse_nested({*named, *skipped})
        return (*skipped, *(path for path in named if path not in skipped))

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        n, before = np.arange(steps), self.disable_cache_before_step
        computed = (n < before) | ((n - before - 1) % self.cache_interval == 0)
        if self.disable_cache_after_step is not None:
            computed |= n >= self.disable_cache_after_step
        compute = full_table(steps, branches)
        compute[~computed] = False
        source = f"TaylorSeer of diffusers, every {self.cache_interval}, order {self.max_order}"
        dtype = str(self.taylor_factors_dtype)
        corrector = Taylor(self.max_order, dtype if dtype in ROUNDINGS else None)
        schedule = corrected(CacheSchedule(compute, branches, source=source), corrector)
        if not self.tells_paths_apart or schedule.predictions is None:
            return schedule
        skips = [_matches(self.skip_predict_identifiers or (), name) for name in branches]
        return replace(schedule, predictions=_zeros(schedule.predictions, compute, skips))


def _zeros(predictions: Predictions, compute: BoolArray, skips: Sequence[bool]) -> Predictions:
    """The predictions with those of the branches that are skipped as zero times a kept output."""
    steps, width = compute.shape
    terms: dict[tuple[int, int], Sequence[tuple[int, float]]] = {}
    latest = 0
    for s in range(steps):
        computes = bool(compute[s].all())
        latest = s if computes else latest
        for k in range(0 if computes else width):
            listed = predictions.at(s, k)
            if skips[k] or listed:
                terms[s, k] = [(latest, 0.0)] if skips[k] else listed
    return Predictions.from_terms(steps, width, terms, rounding=predictions.rounding)


def _refuse_nested(paths: Collection[str]) -> None:
    for path in sorted(paths):
        heads = path.split(".")
        outer = next((o for i in range(1, len(heads)) if (o := ".".join(heads[:i])) in paths), "")
        if outer:
            raise ValueError(
                f"DiffusersTaylorSeer: cache_identifiers match {path} and {outer}, which it lies "
                "in, so it would count the calls of computed evaluations only and be extrapolated "
                f"inside of them; name one: with {outer} alone all of it is left out"
            )


def _matches(patterns: Sequence[str], path: str) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def _is_list(module: nn.Module) -> bool:
    return type(module).__name__ in ("ModuleList", "ModuleDict")
