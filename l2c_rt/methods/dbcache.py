"""DBCache of cache-dit: the first blocks tell whether the middle ones are computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, NamedTuple

from l2c_rt.correctors.differences import finite_differences, weighted
from l2c_rt.correctors.taylor import check_order
from l2c_rt.methods.checks import check_bool, check_choice, check_int, check_number, mask_of
from l2c_rt.methods.deciding import Deciding, rows_from
from l2c_rt.methods.foca import foca
from l2c_rt.methods.steps_mask import BINS, steps_mask
from l2c_rt.plan.decisions import At, Cut, Decided, Look, ModelFacts
from l2c_rt.plan.dynamic import Rows
from l2c_rt.schedule.cache_schedule import CacheSchedule

FIRST_DIFFERENCE = 3
"""The evaluation whose difference to an earlier one is the first that the calibrator takes."""

ALWAYS = -1.0
"""The metric that is noted where the threshold of 1 or more asks for none."""


class Counts(NamedTuple):
    """What DBCache knows of the run: evaluations that reused, those in a row, the metrics' sum."""

    cached: int = 0
    in_a_row: int = 0
    accumulated: float = 0.0


class Place(NamedTuple):
    """Of an evaluation since everything began anew: its step, which of the step's calls it is, and
    the run's step at which its call began anew."""

    step: int
    call: int
    begun: int


CHOICES = {
    "steps_computation_policy": ("dynamic", "static"),
    "force_refresh_step_policy": ("once", "repeat"),
    "calibrator_type": ("taylorseer", "foca"),
    "calibrator_cache_type": ("residual", "hidden_states"),
}
SWITCHES = (
    "cfg_compute_first", "cfg_diff_compute_separate", "enable_calibrator",
    "enable_encoder_calibrator",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DBCache(Deciding):
    """Reuses what the middle blocks add where what the first `Fn_compute_blocks` add has changed by
    less than `residual_diff_threshold`, as mean |r - r'| / mean |r'| over the batch, r' being that
    of the last computed evaluation of the same call.  The last `Bn_compute_blocks` always run.

    Computed are: every `warmup_interval`-th of the first `max_warmup_steps`; what the mask says (a
    name, "slow" to "ultra", or one 0 or 1 per evaluation), whose zeros are decided with the policy
    "dynamic" and reused with "static"; all evaluations once `max_cached_steps` have reused, one
    after `max_continuous_cached_steps` in a row, all once the metrics have added up to
    `max_accumulated_residual_diff_threshold` (-1 and None: no such limit).  A threshold of 0
    computes always, one of 1 or more never asks.
    Calls of a step decide by themselves; with `cfg_diff_compute_separate=False` those after the
    first take its metric, but with `cfg_compute_first`, where there is none yet, as published.
    At call `force_refresh_step_hint` (counted from 0; two calls per step count twice) everything
    begins anew, as at a run's first call: counts, warm-up, mask, r', differences; with the policy
    "repeat" after each further such number of calls.
    With `taylorseer_order` m (TaylorSeerCalibratorConfig) what is reused is predicted from the last
    m + 1 computed evaluations by finite differences, of which those before evaluation 3 have none;
    `calibrator_cache_type` "hidden_states" predicts the middle blocks' output in place of what they
    add to their input.  `enable_calibrator` is of the image, `enable_encoder_calibrator` of the
    other streams: where it is False they are reused as they are.
    With the `calibrator_type` "foca" (FoCaCalibratorConfig) it is predicted along the last two
    values that were used, computed or predicted.
    Kept: what the middle blocks add, per stream, and r'.  Needs: nothing.
    Source: cache-dit 1.5.3, DBCacheConfig, whose names and defaults these are; its
    num_inference_steps and enable_separate_cfg are `steps` and `calls_per_step` of compile.
    """

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
    calibrator_type: Literal["taylorseer", "foca"] = "taylorseer"
    calibrator_cache_type: Literal["residual", "hidden_states"] = "residual"
    enable_calibrator: bool = True
    enable_encoder_calibrator: bool = True

    def __post_init__(self) -> None:
        for name, least in (
            ("Fn_compute_blocks", 1), ("Bn_compute_blocks", 0), ("max_warmup_steps", 0),
            ("warmup_interval", 1), ("max_cached_steps", -1), ("max_continuous_cached_steps", -1),
        ):  # fmt: skip
            check_int(f"DBCache: {name}", getattr(self, name), least)
        threshold = self.residual_diff_threshold
        if getattr(threshold, "ndim", 1) == 0:  # a tensor, as there
            object.__setattr__(self, "residual_diff_threshold", float(threshold))
        check_number("DBCache: residual_diff_threshold", self.residual_diff_threshold, 0)
        limit = self.max_accumulated_residual_diff_threshold
        if limit is not None:
            check_number("DBCache: max_accumulated_residual_diff_threshold", limit, 0)
        for name, known in CHOICES.items():
            check_choice(f"DBCache: {name}", getattr(self, name), known)
        for name in SWITCHES:
            check_bool(f"DBCache: {name}", getattr(self, name))
        if self.cfg_compute_first and self.cfg_diff_compute_separate:
            raise ValueError(
                "DBCache: cfg_compute_first is True, wanted cfg_diff_compute_separate=False with it"
            )
        if self.force_refresh_step_hint is not None:
            check_int("DBCache: force_refresh_step_hint", self.force_refresh_step_hint, 1)
        if self.taylorseer_order is not None:
            check_order("DBCache: taylorseer_order", self.taylorseer_order)
        if self.steps_computation_mask is not None:
            mask = mask_of("DBCache: steps_computation_mask", self.steps_computation_mask, BINS)
            object.__setattr__(self, "steps_computation_mask", mask)

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
                f"DBCache: steps_computation_mask has {len(values)} entries, the run has {steps} "
                "evaluations; give one per evaluation"
            )
        return tuple(int(value) for value in values)

    def cut(self, facts: ModelFacts) -> Cut:
        self.rows(facts.blocks)
        look = Look("added", facts.blocks[self.Fn_compute_blocks - 1], against="computed")
        if not self._is_calibrated:
            return Cut(look)
        plain: Literal["", "image", "others"] = "" if self.enable_calibrator else "image"
        if not self.enable_encoder_calibrator:
            plain = "others"
        return Cut(look, keeps_outputs=self.calibrator_cache_type == "hidden_states", plain=plain)

    @property
    def _is_calibrated(self) -> bool:
        enabled = self.enable_calibrator or self.enable_encoder_calibrator
        return enabled and (self.taylorseer_order is not None or self.calibrator_type == "foca")

    @property
    def history(self) -> int:
        if not self._is_calibrated:
            return 1
        return 2 if self.calibrator_type == "foca" else 1 + (self.taylorseer_order or 0)

    @property
    def stores(self) -> int:
        return 2 if self._is_calibrated and self.calibrator_type == "foca" else 0

    def prediction(self, computed: tuple[int, ...], at: At) -> Mapping[int, float]:
        begun = self._place(at).begun
        if self.calibrator_type == "foca":
            return foca(tuple(s for s in computed if s >= begun), at.step)
        early = [s for s in computed if begun <= s < begun + FIRST_DIFFERENCE][-1:]
        chain = early + [s for s in computed if s >= begun + FIRST_DIFFERENCE]
        differences = finite_differences(chain[-self.history :], self.history - 1)
        distance = at.step - computed[-1]
        weights = [distance**i / math.factorial(i) for i in range(len(differences))]
        return weighted(differences, weights)

    def rows(self, branches: tuple[str, ...]) -> Rows:
        return rows_from(branches, first=self.Fn_compute_blocks, last=self.Bn_compute_blocks)

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        self.mask(steps)
        return Deciding.schedule(self, steps, branches)

    def begin(self) -> Counts:
        return Counts()

    def _place(self, at: At) -> Place:
        """Of an evaluation since everything began anew."""
        call, hint = at.step * at.calls + at.call, self.force_refresh_step_hint
        first = 0
        if hint is not None and call >= hint:
            first = hint if self.force_refresh_step_policy == "once" else call // hint * hint
        step, number = divmod(call - first, at.calls)
        return Place(step, number, at.step - step)

    def forced(self, state: Counts, at: At) -> Decided | None:
        step, number, _ = self._place(at)
        mask = self.mask(at.steps)
        warmup = self.max_warmup_steps
        if mask is not None:
            warmup = min(warmup, sum(takewhile(bool, mask)))
        if step == 0 or step in range(0, warmup, self.warmup_interval):
            return Decided(0)
        if mask is not None and (mask[step] or self.steps_computation_policy == "static"):
            return Decided(0 if mask[step] else 1)
        if self._is_at_a_limit(state) or self.residual_diff_threshold <= 0:
            return Decided(0)
        if self.residual_diff_threshold >= 1:
            return Decided(1, ALWAYS)
        before = at.call_before
        if self.cfg_diff_compute_separate or self.cfg_compute_first or not number or not before:
            return None
        shared = math.isnan(before.metric)
        return None if shared else Decided(self.choose(state, at, before.metric), before.metric)

    def _is_at_a_limit(self, state: Counts) -> bool:
        return (
            0 <= self.max_cached_steps <= state.cached
            or 0 <= self.max_continuous_cached_steps <= state.in_a_row
            or 0 < (self.max_accumulated_residual_diff_threshold or 0) <= state.accumulated
        )

    def choose(self, state: Counts, at: At, metric: float) -> int:
        return int(metric < self.residual_diff_threshold)

    def after(self, state: Counts, at: At, done: Decided) -> Counts:
        if self._place(at).step == 0:
            return Counts()
        # NaN compares with nothing.
        accumulated = state.accumulated + (done.metric if done.metric > 0 else 0.0)
        if done.row == 0:
            return Counts(state.cached, 0, accumulated)
        return Counts(state.cached + 1, state.in_a_row + 1, accumulated)
