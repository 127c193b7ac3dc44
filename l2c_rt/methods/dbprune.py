"""DBPrune of cache-dit: every block is computed or not by what enters it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from l2c_rt.methods.checks import check_bool, check_int, check_number
from l2c_rt.methods.dbcache import ALWAYS
from l2c_rt.methods.dual_block import DualBlock
from l2c_rt.plan.decisions import At, Decided, Look, Part

MOST_METRICS = 5
"""The metrics of an evaluation that a dynamic threshold is made of: its first ones."""

FEWER_CHANNELS = 4
"""With `force_reduce_calibrator_vram` every such channel is compared."""


class Pruned(NamedTuple):
    """What DBPrune knows of the run: evaluations with pruned blocks, the last of them, how many in
    a row; the evaluation under way, and its first metrics."""

    cached: int = 0
    last: int = -1
    in_a_row: int = 0
    step: int = -1
    metrics: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class DBPrune(DualBlock):
    """Reuses what a block adds where what enters it has changed by less than
    `residual_diff_threshold`, as mean |x - x'| / mean |x'| over the batch, x' being what entered it
    where it was computed last.  The first `Fn_compute_blocks`, the last `Bn_compute_blocks` and
    those numbered `non_prune_block_ids` in their list always run.

    With `enable_dynamic_prune_threshold` the threshold is the mean of the evaluation's first five
    metrics times `dynamic_prune_threshold_relax_ratio`, where that is above it and below
    `max_dynamic_prune_threshold`, or twice it for None; the step's other calls take those of the
    first.  Warm-up, mask, limits and refreshes are DBCache's, of evaluations with any pruned block:
    at `max_cached_steps` also the rest of the last one computes, and metrics do not add up.
    Calibrators predict each block from its own computed outputs; with
    `force_reduce_calibrator_vram` every fourth channel is compared.  `blocks` and
    `params_modifiers` are as in DBCache; counts and metrics are of one list of blocks.
    Kept: what each block adds, per stream, and x'.  Needs: a read from the device at every block.
    Source: cache-dit 1.5.3, DBPruneConfig, whose names and defaults these are, but that a
    calibrator of "hidden_states" replaces the text by what it stands for, and not by what the
    block adds to it.
    """

    enable_dynamic_prune_threshold: bool = False
    max_dynamic_prune_threshold: float | None = None
    dynamic_prune_threshold_relax_ratio: float = 1.25
    non_prune_block_ids: Sequence[int] = ()
    force_reduce_calibrator_vram: bool = False

    def __post_init__(self) -> None:
        DualBlock.__post_init__(self)
        for name in ("enable_dynamic_prune_threshold", "force_reduce_calibrator_vram"):
            check_bool(f"DBPrune: {name}", getattr(self, name))
        ratio = self.dynamic_prune_threshold_relax_ratio
        check_number("DBPrune: dynamic_prune_threshold_relax_ratio", ratio, 0)
        limit = self.max_dynamic_prune_threshold
        if limit is not None:
            check_number("DBPrune: max_dynamic_prune_threshold", limit, 0)
        if not isinstance(self.non_prune_block_ids, Sequence):
            raise TypeError(
                f"DBPrune: non_prune_block_ids is {self.non_prune_block_ids!r}, wanted numbers of "
                "blocks, such as (0, 1)"
            )
        numbers = tuple(self.non_prune_block_ids)
        for number in numbers:
            check_int("DBPrune: non_prune_block_ids", number, 0)
        object.__setattr__(self, "non_prune_block_ids", numbers)
        if not self.cfg_diff_compute_separate:
            raise ValueError(
                "DBPrune: cfg_diff_compute_separate is False, wanted True: a call has a metric at "
                "every block, and cache-dit's own stops there"
            )

    def decisions(self, blocks: tuple[str, ...], number: int) -> tuple[Part, ...]:
        last = len(blocks) - self.Bn_compute_blocks
        reduced = self.force_reduce_calibrator_vram and self.is_calibrated
        stride = FEWER_CHANNELS if reduced else 1
        return tuple(
            Part(self, self.cut_by(look), (path,), number)
            for i, path in enumerate(blocks)
            if self.Fn_compute_blocks <= i < last and i not in self.non_prune_block_ids
            for look in [Look("entering", path, against="computed", stride=stride)]
        )

    def begin(self) -> Pruned:
        return Pruned()

    def _now(self, state: Pruned, at: At) -> Pruned:
        """The state at a block of this evaluation."""
        step = self.place(at).step
        if state.step == step:
            return state
        in_a_row = state.in_a_row if state.last == step - 1 else 0
        return state._replace(in_a_row=in_a_row, step=step, metrics=())

    def _threshold(self, state: Pruned, at: At) -> float:
        threshold, limit = self.residual_diff_threshold, self.max_dynamic_prune_threshold
        seen = state.metrics if not at.call else _known(at.first_metrics)
        positive = [metric for metric in seen if metric > 0]
        if not self.enable_dynamic_prune_threshold or not positive:
            return threshold
        relaxed = sum(positive) / len(positive) * self.dynamic_prune_threshold_relax_ratio
        return max(threshold, relaxed) if relaxed < (limit or 2 * threshold) else threshold

    def forced(self, state: Pruned, at: At) -> Decided | None:
        state = self._now(state, at)
        decided = self.by_steps(at)
        if decided is not None:
            return decided
        before = state.in_a_row - (state.last == state.step)
        threshold = self._threshold(state, at)
        if (
            0 <= self.max_cached_steps <= state.cached
            or 0 <= self.max_continuous_cached_steps <= before
            or threshold <= 0
        ):
            return Decided(0)
        return Decided(1, ALWAYS) if threshold >= 1 else None

    def choose(self, state: Pruned, at: At, metric: float) -> int:
        return int(metric < self._threshold(self._now(state, at), at))

    def after(self, state: Pruned, at: At, done: Decided) -> Pruned:
        state = self._now(state, at)
        if not state.step:
            return Pruned(step=0)
        metrics = _known((*state.metrics, done.metric))
        if done.row == 0 or state.last == state.step:
            return state._replace(metrics=metrics)
        return Pruned(state.cached + 1, state.step, state.in_a_row + 1, state.step, metrics)


def _known(metrics: Sequence[float]) -> tuple[float, ...]:
    """The first ones that were evaluated."""
    return tuple(metric for metric in metrics if metric == metric)[:MOST_METRICS]
