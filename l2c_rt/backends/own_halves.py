"""A model's own forward, of which some evaluations run the conditional half of the batch alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.halves import (
    band_difference,
    check_frames,
    check_halves_alike,
    conditional,
    conditional_arguments,
    joined,
    recovered,
    sample_of,
    with_sample,
)
from l2c_rt.backends.own import OwnWorkspace
from l2c_rt.memory.kept_values import ValueKey
from l2c_rt.plan.ops import StepPlan
from l2c_rt.plan.stream_ops import HalveBatch, JoinHalves, KeepBands

BANDS = ValueKey(-2, 0)


class HalvedWorkspace(OwnWorkspace):
    """What is kept of a branch are the conditional rows, whichever evaluation computes it."""

    _rows_of_batch = 0
    _is_whole = True

    def carry_out(self, step: StepPlan, evaluation: Evaluation) -> object:
        """See `OwnWorkspace.carry_out`; raises ValueError for a batch that is not two halves."""
        halves = self._plan.halves
        assert halves is not None
        state, rows = evaluation.state, evaluation.state.x.shape[0]
        if evaluation.step == 0:
            check_halves_alike(state.x, halves)
        self._rows_of_batch = rows
        self._is_whole = not any(isinstance(op, HalveBatch) for op in step)
        if not self._is_whole:
            args, kwargs = conditional_arguments(
                rows, halves, state.options["args"], state.options["kwargs"]
            )
            options = state.options | {"args": args, "kwargs": kwargs}
            evaluation = evaluation._replace(state=replace(state, options=options))
        out = super().carry_out(step, evaluation)
        # In a loop that is not known all is computed, by the step of evaluation 0.
        if self._plan.order[evaluation.step] != evaluation.variant:
            return out
        return self._left(step, evaluation, out)

    def _left(self, step: StepPlan, evaluation: Evaluation, out: Any) -> object:
        """What the evaluation gives for the whole batch."""
        halves, values = self._plan.halves, evaluation.slots.values
        assert halves is not None
        if evaluation.step == 0:
            check_frames(sample_of(out), halves)
        for op in step:
            if isinstance(op, KeepBands):
                difference = band_difference(sample_of(out), halves)
                values.keep(BANDS, difference, 1, may_change=True)
            elif isinstance(op, JoinHalves):
                cond = sample_of(out)
                if self._is_whole:
                    cond = cond[conditional(len(cond), halves)]
                uncond = cond
                if op.bands:
                    uncond = recovered(cond, values.get(BANDS), op.low, op.high)
                out = with_sample(out, joined(cond, uncond, halves))
        return out

    def _keep(self, slot: int, call: int, path: str, out: object, new: bool) -> None:
        super()._keep(slot, call, path, tree_map(self._conditional, out), new)

    def _conditional(self, value: Any) -> Any:
        halves, rows = self._plan.halves, self._rows_of_batch
        assert halves is not None
        whole = self._is_whole and isinstance(value, Tensor) and value.dim() > 0
        return value[conditional(rows, halves)] if whole and value.shape[0] == rows else value
