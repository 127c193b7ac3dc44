"""The fused backend on a CPU: modulation tabulated per run, packed products, and one pass over the
residual stream from branch to branch.

Equal to the reference up to rounding.  What a branch gives waits until the next one wants its
input: then one pass adds all that waits, keeps it in its slots, and normalises.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import (
    BoundModel,
    FusableAttention,
    FusableModel,
    OuterLayers,
    State,
)
from l2c_rt.backends.backend import Evaluation, OpByOp, OpTable, refuse_autocast
from l2c_rt.backends.cpu.attention import Attention
from l2c_rt.backends.cpu.branch_inputs import BranchInputs
from l2c_rt.backends.cpu.branches import run_branch, run_scored
from l2c_rt.backends.cpu.outer import embedded, image_of
from l2c_rt.backends.cpu.products import Products
from l2c_rt.backends.cpu.rows import NormInput, Term, norm_some, row_pass
from l2c_rt.backends.cpu.sampled_modulation import table_for
from l2c_rt.backends.cpu.token_passes import choose_and_age, put_back
from l2c_rt.backends.token_states import begin_ages, chosen_tokens, keep_stream, kept_stream
from l2c_rt.memory.mixing import mixed
from l2c_rt.plan.ops import (
    Compute,
    Plan,
    Predict,
    Reuse,
    ReuseRun,
    RunFixed,
    StepPlan,
)
from l2c_rt.plan.stream_ops import KeepStream, RestoreStream
from l2c_rt.plan.tokens import Refresh, Scored


class FusedCpu(OpByOp):
    """Keeps the modulation table and one branch's input between calls.

    With `requests`, which may run at once, every sample of an evaluation is at a step of its own.
    """

    def __init__(
        self,
        model: BoundModel,
        fusable: FusableModel,
        products: Products,
        attention: Attention,
        plan: Plan,
        requests: int | None = None,
    ) -> None:
        super().__init__(model)
        self.fusable, self.products, self.attention = fusable, products, attention
        self._tokens = plan.tokens
        self._table = table_for(fusable, plan.num_evaluations, requests)
        # Where the model's own code would compute the condition of the final norm once more.
        self._outer = fusable.outer if fusable.modulation is not None else None
        self._skip_linears = {} if fusable.outer is None else fusable.outer.skip_linears
        self._h: Tensor | None = None
        self._inputs = BranchInputs(fusable)
        self._waiting: list[Term] = []
        self._lanes: tuple[int, ...] = ()

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        refuse_autocast("cpu")
        # Of an evaluation that ended in an error.
        self._waiting.clear()
        self._lanes = evaluation.lanes
        if self._table is not None:
            state = evaluation.state
            rows = self._table.begin(state.t, state.y, evaluation.step, evaluation.timesteps)
            self._inputs.use(rows)
        ops = self.ops
        for op in step:
            ops[type(op)](self, op, evaluation)
        self._pass(evaluation.state, None)
        return self.model.finish(evaluation.state)

    @property
    def nbytes(self) -> int:
        return 0 if self._table is None else self._table.nbytes

    def drop_tables(self) -> None:
        self._h = None
        self._inputs.forget()
        if self._table is not None:
            self._table.drop()

    def run_fixed(self, op: RunFixed, evaluation: Evaluation) -> None:
        state = evaluation.state
        if self._outer is not None and op.node in ("embed", "final"):
            self._outer_node(self._outer, op.node, state)
            return
        self._pass(state, None)
        linear = self._skip_linears.get(op.node)
        if linear is None:
            self.model.fixed[op.node](state)
        else:
            both = torch.cat([state.x, state.skips.pop()], dim=-1)
            state.x = self.products(self._narrowed(both), linear).to(both.dtype)

    def _outer_node(self, outer: OuterLayers, node: str, state: State) -> None:
        if node == "embed":
            state.size = (state.x.shape[2], state.x.shape[3])
            state.x = embedded(outer, state.x)
            return
        self._pass(state, None)
        h = torch.empty_like(state.x)
        row_pass(state.x, state.x, (), self._inputs.final_norm(outer.norm, h))
        state.x = image_of(outer, h, state.size)

    def compute(self, op: Compute, evaluation: Evaluation) -> None:
        slot, h = self._slot_and_input(op, evaluation)
        branch = self.fusable.branches[op.branch]
        out = run_branch(branch.inner, h, self.products, self.attention, slot)
        self._add(op.branch, out, keep_in=slot)

    def scored(self, op: Scored, evaluation: Evaluation) -> None:
        assert self._tokens is not None
        slot, h = self._slot_and_input(op, evaluation)
        inner = self.fusable.branches[op.branch].inner
        assert isinstance(inner, FusableAttention)
        out, fresh = run_scored(inner, h, self.products, self.attention, op.score, slot)
        self._add(op.branch, out, keep_in=slot)
        begin_ages(self._tokens, op, fresh, evaluation)

    def refresh(self, op: Refresh, evaluation: Evaluation) -> None:
        assert self._tokens is not None
        if op.tokens:
            self._pass(evaluation.state, None)
        places = chosen_tokens(self._tokens, op, evaluation, choose_and_age)
        out = evaluation.slots.load(op.slot)
        if op.tokens:
            x = evaluation.state.x
            whole = self._input_like(x)
            h = whole.view(-1)[: places.numel() * x.shape[2]].view(*places.shape, -1)
            norm_some(x, places, self._inputs.norm(op.branch, whole), h)
            inner = self.fusable.branches[op.branch].inner
            put_back(run_branch(inner, h, self.products, self.attention, None), out, places)
        self._add(op.branch, out)

    def keep_stream(self, op: KeepStream, evaluation: Evaluation) -> None:
        self._pass(evaluation.state, None)
        keep_stream(evaluation.slots.values, evaluation.state.x)

    def restore_stream(self, op: RestoreStream, evaluation: Evaluation) -> None:
        self._pass(evaluation.state, None)
        evaluation.state.x = kept_stream(evaluation.slots.values)

    def reuse(self, op: Reuse, evaluation: Evaluation) -> None:
        self._add(op.branch, evaluation.slots.load(op.slot))

    def predict(self, op: Predict, evaluation: Evaluation) -> None:
        load, operand = evaluation.slots.load, evaluation.operands.get(op.branch)
        kept, numbers = tuple([load(slot) for slot in op.slots]), evaluation.numbers(op)
        if operand is not None and operand.rounding is not None:
            # What still waits may be kept where this is read.
            self._pass(evaluation.state, None)
            kept, numbers = (mixed(kept, numbers, operand, evaluation.lanes),), ()
            operand = None
        store = None if op.store is None else load(op.store)
        self._waiting.append(Term(kept, self._inputs.gate(op.branch), numbers, store, operand))

    def reuse_run(self, op: ReuseRun, evaluation: Evaluation) -> None:
        for item in op.items:
            self.ops[type(item)](self, item, evaluation)

    ops: ClassVar[OpTable] = {
        RunFixed: run_fixed, Compute: compute, Reuse: reuse, Predict: predict,
        ReuseRun: reuse_run,
        Scored: scored, Refresh: refresh, KeepStream: keep_stream, RestoreStream: restore_stream,
    }  # fmt: skip

    def _slot_and_input(self, op: Compute, evaluation: Evaluation) -> tuple[Tensor | None, Tensor]:
        """Where a branch's output is kept, if anywhere, and its input, after all that waited."""
        state, h = evaluation.state, self._input_like(evaluation.state.x)
        self._pass(state, self._inputs.norm(op.branch, h))
        return None if op.slot is None else evaluation.slots.target(op.slot, h), h

    def _add(self, name: str, out: Tensor, *, keep_in: Tensor | None = None) -> None:
        """Leave a branch's output to the next pass."""
        gate = self._inputs.gate(name)
        self._waiting.append(Term((out,), gate, store=None if out is keep_in else keep_in))

    def _pass(self, state: State, norm: NormInput | None) -> None:
        """Add what waits to the stream, and give the next branch its input."""
        if norm is None and not self._waiting:
            return
        x = state.x if state.x.is_contiguous() else state.x.contiguous()
        # A long skip holds the same tensor, which stays as it is.
        held = bool(self._waiting and state.skips and state.skips[-1] is state.x)
        state.x = torch.empty_like(x) if held else x
        row_pass(x, state.x, self._waiting, norm, self._lanes)
        self._waiting.clear()

    def _input_like(self, x: Tensor) -> Tensor:
        dtype = self.products.dtype or x.dtype
        h = self._h
        if h is None or h.shape != x.shape or h.dtype != dtype:
            # Where x is, and not on a default device of the user's.
            h = self._h = x.new_empty(x.shape, dtype=dtype)
        return h

    def _narrowed(self, x: Tensor) -> Tensor:
        return x if self.products.dtype is None else x.to(self.products.dtype)
