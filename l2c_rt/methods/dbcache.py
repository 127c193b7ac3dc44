"""DBCache of cache-dit: the first blocks tell whether the middle ones are computed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from l2c_rt.methods.dual_block import DualBlock
from l2c_rt.plan.decisions import At, Decided, Look, Part

ALWAYS = -1.0
"""The metric that is noted where the threshold of 1 or more asks for none."""


class Counts(NamedTuple):
    """What DBCache knows of the run: evaluations that reused, those in a row, the metrics' sum."""

    cached: int = 0
    in_a_row: int = 0
    accumulated: float = 0.0


@dataclass(frozen=True, slots=True)
class DBCache(DualBlock):
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
    With "dmd" (DMDCalibratorConfig) it follows the modes of the last `dmd_history` computed values,
    of rank `dmd_rank`, where four or more are equally far apart, and else the last change; that
    reads the device, so those blocks are in no CUDA graph.
    The lists of blocks of a model are decided about one by one where cache-dit does so, each with
    first and last blocks, r' and counts of its own (Flux2, HunyuanVideo, Chroma, ...).  `blocks`
    names other lists, a tuple of names for those that are one; blocks of lists that are not named
    are computed.  `params_modifiers` has, by the first name of a list, the fields that are others
    for it (ParamsModifier).
    Kept: what the middle blocks add, per stream, and r'.  Needs: nothing.
    Source: cache-dit 1.5.3, DBCacheConfig, whose names and defaults these are; its
    num_inference_steps and enable_separate_cfg are `steps` and `calls_per_step` of compile.
    """

    def decisions(self, blocks: tuple[str, ...], number: int) -> tuple[Part, ...]:
        first, last = self.Fn_compute_blocks, len(blocks) - self.Bn_compute_blocks
        if first >= last:
            return ()
        look = Look("added", blocks[first - 1], against="computed", start=blocks[0])
        return (Part(self, self.cut_by(look), blocks[first:last], number),)

    def begin(self) -> Counts:
        return Counts()

    def forced(self, state: Counts, at: At) -> Decided | None:
        number, decided = self.place(at).call, self.by_steps(at)
        if decided is not None:
            return decided
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
        if self.place(at).step == 0:
            return Counts()
        # NaN compares with nothing.
        accumulated = state.accumulated + (done.metric if done.metric > 0 else 0.0)
        if done.row == 0:
            return Counts(state.cached, 0, accumulated)
        return Counts(state.cached + 1, state.in_a_row + 1, accumulated)
