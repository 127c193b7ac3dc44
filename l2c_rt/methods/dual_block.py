"""What cache-dit's methods have in common: options, lists of blocks, calibrators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal

import numpy as np

from l2c_rt.correctors.taylor import check_order
from l2c_rt.methods.block_lists import blocks_by_list, checked_lists, checked_modifiers, lists_for
from l2c_rt.methods.calibrated import Calibrated
from l2c_rt.methods.checks import check_bool, check_choice, check_int, check_number, mask_of
from l2c_rt.methods.deciding import Deciding, rows_from
from l2c_rt.methods.steps_mask import BINS, steps_mask
from l2c_rt.plan.decisions import At, Cut, Decided, DynamicMethod, ModelFacts, Part
from l2c_rt.plan.dynamic import Rows
from l2c_rt.schedule.cache_schedule import CacheSchedule

LEAST = {
    "Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 0, "warmup_interval": 1,
    "max_cached_steps": -1, "max_continuous_cached_steps": -1, "dmd_history": 2, "dmd_rank": 0,
}  # fmt: skip
CHOICES = {
    "steps_computation_policy": ("dynamic", "static"),
    "force_refresh_step_policy": ("once", "repeat"),
    "calibrator_type": ("taylorseer", "foca", "dmd"),
    "dmd_svd_precision": ("low", "medium", "high"),
    "calibrator_cache_type": ("residual", "hidden_states"),
}
SWITCHES = (
    "cfg_compute_first", "cfg_diff_compute_separate", "enable_calibrator",
    "enable_encoder_calibrator",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DualBlock(Calibrated, ABC):
    """The options of DBCacheConfig and of the calibrators, with `blocks` and `params_modifiers`."""

    Fn_compute_blocks: int = 8
    Bn_compute_blocks: int = 0
    residual_diff_threshold: float = 0.08
    max_warmup_steps: int = 8
    warmup_interval: int = 1
    max_cached_steps: int = -1
    max_continuous_cached_steps: int = -1
    max_accumulated_residual_diff_threshold: float | None = None
    steps_computation_mask: str | Sequence[int] | None = None
    steps_computation_policy: Literal["dynamic", "static"] = "dynamic"
    cfg_compute_first: bool = False
    cfg_diff_compute_separate: bool = True
    force_refresh_step_hint: int | None = None
    force_refresh_step_policy: Literal["once", "repeat"] = "once"
    taylorseer_order: int | None = None
    calibrator_type: Literal["taylorseer", "foca", "dmd"] = "taylorseer"
    calibrator_cache_type: Literal["residual", "hidden_states"] = "residual"
    enable_calibrator: bool = True
    enable_encoder_calibrator: bool = True
    dmd_history: int = 6
    dmd_rank: int = 0
    dmd_ridge: float = 1e-8
    dmd_svd_precision: Literal["low", "medium", "high"] = "medium"
    blocks: Sequence[str | Sequence[str]] | None = None
    params_modifiers: Mapping[str, Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field, least in LEAST.items():
            check_int(f"{name}: {field}", getattr(self, field), least)
        threshold = self.residual_diff_threshold
        if getattr(threshold, "ndim", 1) == 0:  # a tensor, as there
            object.__setattr__(self, "residual_diff_threshold", float(threshold))
        check_number(f"{name}: residual_diff_threshold", self.residual_diff_threshold, 0)
        check_number(f"{name}: dmd_ridge", self.dmd_ridge, 0)
        limit = self.max_accumulated_residual_diff_threshold
        if limit is not None:
            check_number(f"{name}: max_accumulated_residual_diff_threshold", limit, 0)
        for field, known in CHOICES.items():
            check_choice(f"{name}: {field}", getattr(self, field), known)
        for field in SWITCHES:
            check_bool(f"{name}: {field}", getattr(self, field))
        if self.cfg_compute_first and self.cfg_diff_compute_separate:
            raise ValueError(
                f"{name}: cfg_compute_first is True, wanted cfg_diff_compute_separate=False with it"
            )
        if self.force_refresh_step_hint is not None:
            check_int(f"{name}: force_refresh_step_hint", self.force_refresh_step_hint, 1)
        if self.taylorseer_order is not None:
            check_order(f"{name}: taylorseer_order", self.taylorseer_order)
        if self.steps_computation_mask is not None:
            mask = mask_of(f"{name}: steps_computation_mask", self.steps_computation_mask, BINS)
            object.__setattr__(self, "steps_computation_mask", mask)
        self._check_lists(name)

    def _check_lists(self, name: str) -> None:
        if self.blocks is not None:
            object.__setattr__(self, "blocks", checked_lists(f"{name}: blocks", self.blocks))
        modifiers = checked_modifiers(f"{name}: params_modifiers", self.params_modifiers)
        for key, fields in modifiers.items():
            unknown = [f for f in fields if f in OF_THE_MODEL or f not in self.__match_args__]
            if unknown:
                raise ValueError(
                    f"{name}: params_modifiers[{key!r}] has {unknown[0]!r}, wanted fields of "
                    f"{name} but {' and '.join(OF_THE_MODEL)}"
                )
            self.alone(key)

    def alone(self, name: str) -> DualBlock:
        """The method for the blocks of one list."""
        own = (self.params_modifiers or {}).get(name, {})
        return replace(self, **{"blocks": None, "params_modifiers": None, **own})

    def by_list(self, branches: tuple[str, ...]) -> list[tuple[DualBlock, tuple[str, ...]]]:
        """For every list the method for it alone, and its blocks.

        Raises ValueError for lists that the model does not have, or with fewer blocks than are
        computed.
        """
        name, lists = type(self).__name__, checked_lists("", self.blocks or ("",))
        pairs = [(self.alone(""), branches)]
        if self.blocks is not None:
            blocks = blocks_by_list(f"{name}: blocks", lists, branches)
            pairs = [(self.alone(entry[0]), b) for entry, b in zip(lists, blocks, strict=True)]
        firsts = [entry[0] for entry in lists]
        others = [key for key in self.params_modifiers or {} if key not in firsts]
        if others:
            raise ValueError(
                f"{name}: params_modifiers has {others[0]!r}, wanted the first names of lists that "
                f"are decided about: {', '.join(filter(None, firsts)) or 'name them in blocks='}"
            )
        for method, own in pairs:
            computed = method.Fn_compute_blocks + method.Bn_compute_blocks
            if computed > len(own):
                rows_from(own, first=computed, last=0)
        return pairs

    def mask(self, steps: int) -> tuple[int, ...] | None:
        """The mask for a run of that many evaluations.

        Raises ValueError where it is for another number, or none is published for it.
        """
        mask = self.steps_computation_mask
        if mask is None:
            return None
        values = steps_mask(mask, steps) if isinstance(mask, str) else mask
        if len(values) != steps:
            raise ValueError(
                f"{type(self).__name__}: steps_computation_mask has {len(values)} entries, the run "
                f"has {steps} evaluations; give one per evaluation"
            )
        return tuple(int(value) for value in values)

    def for_model(self, facts: ModelFacts) -> DynamicMethod:
        apart = self.params_modifiers is not None
        lists = self.blocks or lists_for(facts.kind, facts.blocks, apart=apart)
        return Deciding.for_model(replace(self, blocks=lists), facts)

    def cut(self, facts: ModelFacts) -> Cut:
        return self.parts(facts)[0].cut

    def parts(self, facts: ModelFacts) -> tuple[Part, ...]:
        self.rows(facts.blocks)
        lists = enumerate(self.by_list(facts.blocks))
        return tuple(part for n, (alone, own) in lists for part in alone.decisions(own, n))

    @abstractmethod
    def decisions(self, blocks: tuple[str, ...], number: int) -> tuple[Part, ...]:
        """Those about the blocks of list `number`, none where all of them are computed."""

    def rows(self, branches: tuple[str, ...]) -> Rows:
        """Row 1 reuses all blocks that may be."""
        rows = np.ones((2, len(branches)), np.bool_)
        for alone, own in self.by_list(branches):
            reused = {path for part in alone.decisions(own, 0) for path in part.blocks}
            rows[1] &= [path not in reused for path in branches]
        if rows.all():
            rows_from(branches, first=len(branches), last=0)
        return rows

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        for alone, _ in self.by_list(branches):
            alone.mask(steps)
        return Deciding.schedule(self, steps, branches)

    def by_steps(self, at: At) -> Decided | None:
        """What warm-up and mask say of an evaluation, None where they leave it open."""
        step, mask, warmup = self.place(at).step, self.mask(at.steps), self.max_warmup_steps
        if mask is not None:
            warmup = min(warmup, sum(takewhile(bool, mask)))
        if step == 0 or step in range(0, warmup, self.warmup_interval):
            return Decided(0)
        if mask is not None and (mask[step] or self.steps_computation_policy == "static"):
            return Decided(0 if mask[step] else 1)
        return None


OF_THE_MODEL = ("blocks", "params_modifiers")
"""Options that are not of one list."""
