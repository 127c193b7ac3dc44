"""A model's own forward, of which some evaluations run the conditional half of the batch alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from l2c_rt.adapters.bound_model import State
from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.half_trial import HalfTrial
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
from l2c_rt.backends.own_calls import MAX_CALLS, CallSignature
from l2c_rt.backends.own_rows import Act
from l2c_rt.memory.kept_values import ValueKey
from l2c_rt.plan.ops import StepPlan
from l2c_rt.plan.stream_ops import HalveBatch, JoinHalves, KeepBands

BANDS = ValueKey(-2, 0)


class HalvedWorkspace(OwnWorkspace):
    """What is kept of a branch are the conditional rows, whichever evaluation computes it.

    Before the first call of each kind the conditional half is run by itself: what it gives has to
    be that part of what the whole batch then gives.
    """

    _rows_of_batch = 0
    _is_whole = True
    _trial: HalfTrial | None = None
    _tried: tuple[CallSignature, ...] = ()

    def carry_out(self, step: StepPlan, evaluation: Evaluation) -> object:
        """See `OwnWorkspace.carry_out`; raises ValueError for a batch that is not two halves, and
        for a model of which half a batch is not half of what a whole one is."""
        halves = self._plan.halves
        assert halves is not None
        state, rows = evaluation.state, evaluation.state.x.shape[0]
        self._trial = None
        if evaluation.step == 0:
            check_halves_alike(state.x, halves)
            self._try_half(state)
        self._rows_of_batch = rows
        self._is_whole = not any(isinstance(op, HalveBatch) for op in step)
        if not self._is_whole:
            args, kwargs = self._half_of(state)
            options = state.options | {"args": args, "kwargs": kwargs}
            evaluation = evaluation._replace(state=replace(state, options=options))
        out = super().carry_out(step, evaluation)
        # In a loop that is not known all is computed, by the step of evaluation 0.
        if self._plan.order[evaluation.step] != evaluation.variant:
            return out
        return self._left(step, evaluation, out)

    def _half_of(self, state: State) -> tuple[tuple[Any, ...], dict[str, Any]]:
        assert self._plan.halves is not None
        options = state.options
        return conditional_arguments(
            len(state.x), self._plan.halves, options["args"], options["kwargs"]
        )

    def _try_half(self, state: State) -> None:
        assert self._plan.halves is not None
        if not self._plan.halves.halved.any():
            return
        signature = CallSignature.of(state.x, state.options["args"], state.options["kwargs"])
        capturing = state.x.is_cuda and torch.cuda.is_current_stream_capturing()
        if capturing or signature in self._tried:
            return
        acts = ((path, action.act) for row in self._rows for path, action in row.items())
        kept = {path for path, act in acts if act is Act.KEEP}
        self._trial = HalfTrial(self._open_stage, kept, *self._half_of(state))
        self._tried = (*self._tried, signature)[-MAX_CALLS:]

    def _left(self, step: StepPlan, evaluation: Evaluation, out: Any) -> object:
        """What the evaluation gives for the whole batch."""
        halves, values = self._plan.halves, evaluation.slots.values
        assert halves is not None
        if evaluation.step == 0:
            sample = sample_of(out)
            check_frames(sample, halves)
            if self._trial is not None:
                self._trial.check_result(sample[conditional(len(sample), halves)])
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

    def _call(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        out = super()._call(path, module, args, kwargs)
        if self._trial is not None:
            self._trial.check_site(path, self.calls[path] - 1, tree_map(self._conditional, out))
        return out

    def _keep(self, slot: int, call: int, path: str, out: object, new: bool) -> None:
        super()._keep(slot, call, path, tree_map(self._conditional, out), new)

    def _conditional(self, value: Any) -> Any:
        """Of an output of a whole batch the conditional rows; each image may have several."""
        halves = self._plan.halves
        assert halves is not None
        if not self._is_whole or not isinstance(value, Tensor) or not value.dim():
            return value
        count = len(value)
        return value[conditional(count, halves)] if count % self._rows_of_batch == 0 else value
