"""The literal backend: the model's own submodules in the model's own order, on any device.

Bitwise equal to the original model where nothing is reused, and to a naive cached forward where
something is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from torch.nn import functional as F

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends.backend import (
    Backend,
    Evaluation,
    OpByOp,
    OpTable,
    unchanged,
)
from l2c_rt.backends.delta_form import with_delta_form
from l2c_rt.backends.token_choice import choose_and_age, fresh_state
from l2c_rt.backends.token_scores import branch_scores
from l2c_rt.backends.token_states import begin_ages, chosen_tokens, keep_stream, kept_stream
from l2c_rt.memory.mixing import mixed
from l2c_rt.plan.delta_ops import FromDelta, KeepAt, LinearParts, ToDelta, Unchanged
from l2c_rt.plan.ops import (
    Compute,
    Iterate,
    Plan,
    Predict,
    Reuse,
    ReuseRun,
    RunFixed,
)
from l2c_rt.plan.stream_ops import KeepStream, RestoreStream, TokenStates
from l2c_rt.plan.tokens import Refresh, Scored


class Reference(OpByOp):
    """Calls the functions of the description; keeps nothing between calls."""

    def __init__(self, model: BoundModel, tokens: TokenStates | None = None) -> None:
        super().__init__(model)
        self._tokens = tokens

    def run_fixed(self, op: RunFixed, evaluation: Evaluation) -> None:
        self.model.fixed[op.node](evaluation.state)

    def compute(self, op: Compute, evaluation: Evaluation) -> None:
        branch = self.model.branches[op.branch]
        out = branch.compute(evaluation.state)
        if op.slot is not None:
            evaluation.slots.store(op.slot, out)
        branch.add(evaluation.state, out)

    def iterate(self, op: Iterate, evaluation: Evaluation) -> None:
        state = evaluation.state
        state.iterations = op.times
        if op.resumes and op.slot is not None:
            state.start = evaluation.slots.load(op.slot)
        self.compute(op, evaluation)

    def reuse(self, op: Reuse, evaluation: Evaluation) -> None:
        out = evaluation.slots.load(op.slot)
        self.model.branches[op.branch].add(evaluation.state, out)

    def predict(self, op: Predict, evaluation: Evaluation) -> None:
        kept = [evaluation.slots.load(slot) for slot in op.slots]
        operand = evaluation.operands.get(op.branch)
        out = mixed(kept, evaluation.numbers(op), operand, evaluation.lanes)
        if op.store is not None:
            evaluation.slots.store(op.store, out)
        self.model.branches[op.branch].add(evaluation.state, out)

    def reuse_run(self, op: ReuseRun, evaluation: Evaluation) -> None:
        for item in op.items:
            self.ops[type(item)](self, item, evaluation)

    def scored(self, op: Scored, evaluation: Evaluation) -> None:
        assert self._tokens is not None
        scores = branch_scores(self.model, op.branch, evaluation.state, self._tokens.rule)
        begin_ages(self._tokens, op, fresh_state(scores), evaluation)
        self.compute(op, evaluation)

    def refresh(self, op: Refresh, evaluation: Evaluation) -> None:
        assert self._tokens is not None
        state, out = evaluation.state, evaluation.slots.load(op.slot)
        chosen = chosen_tokens(self._tokens, op, evaluation, choose_and_age)
        if op.tokens:
            places = chosen.unsqueeze(-1).expand(-1, -1, out.shape[-1])
            some = replace(state, x=state.x.gather(1, places))
            out.scatter_(1, places, self.model.branches[op.branch].compute(some))
        self.model.branches[op.branch].add(state, out)

    def keep_stream(self, op: KeepStream, evaluation: Evaluation) -> None:
        keep_stream(evaluation.slots.values, evaluation.state.x)

    def restore_stream(self, op: RestoreStream, evaluation: Evaluation) -> None:
        evaluation.state.x = kept_stream(evaluation.slots.values)

    def keep_at(self, op: KeepAt, evaluation: Evaluation) -> None:
        evaluation.slots.store(op.slot, evaluation.state.x)

    def to_delta(self, op: ToDelta, evaluation: Evaluation) -> None:
        evaluation.state.x = evaluation.state.x - evaluation.slots.load(op.slot)

    def from_delta(self, op: FromDelta, evaluation: Evaluation) -> None:
        evaluation.state.x = evaluation.slots.load(op.slot) + evaluation.state.x

    def unchanged(self, op: Unchanged, evaluation: Evaluation) -> None:
        """The delta stays as it is."""

    def linear_parts(self, op: LinearParts, evaluation: Evaluation) -> None:
        assert self.model.fusable is not None
        assert self.model.fusable.outer is not None
        state, linears = evaluation.state, self.model.fusable.outer.skip_linears
        for node in op.nodes:
            through, taken = linears[node].weight.chunk(2, dim=1)
            state.x = F.linear(state.x, through) + F.linear(state.skips.pop(), taken)

    ops: ClassVar[OpTable] = {
        RunFixed: run_fixed, Compute: compute, Iterate: iterate, Reuse: reuse, Predict: predict,
        ReuseRun: reuse_run,
        Scored: scored, Refresh: refresh, KeepStream: keep_stream, RestoreStream: restore_stream,
        KeepAt: keep_at, ToDelta: to_delta, FromDelta: from_delta, Unchanged: unchanged,
        LinearParts: linear_parts,
    }  # fmt: skip


def reference_backend(
    model: BoundModel,
    reasons: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    *,
    delta_form: bool = False,
) -> Backend:
    """The reference for a described model."""

    def workspace(plan: Plan, requests: int = 1, most: int = 1) -> Reference:
        return Reference(model, plan.tokens)

    passes = with_delta_form(unchanged) if delta_form else unchanged
    return Backend("reference", passes, workspace, reasons, notes=notes, batched=workspace,
                   delta_form=delta_form)  # fmt: skip
