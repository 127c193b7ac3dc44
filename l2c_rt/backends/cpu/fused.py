"""The fused backend on a CPU: modulation tabulated per run, packed products, and one pass over the
residual stream from branch to branch.

Equal to the reference up to rounding.  What a branch gives waits until the next one wants its
input: then one pass adds all that waits, keeps it in its slots, and normalises.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_rt.adapters.bound_model import (
    BoundModel,
    FusableAttention,
    FusableBranch,
    FusableModel,
    State,
)
from l2c_rt.backends.backend import (
    Backend,
    Evaluation,
    OpByOp,
    OpTable,
    fused_passes,
    refuse_autocast,
)
from l2c_rt.backends.cpu.attention import Attention
from l2c_rt.backends.cpu.branches import run_branch
from l2c_rt.backends.cpu.modulation import ModulationTable
from l2c_rt.backends.cpu.products import Products, product_chooser, unmeasured
from l2c_rt.backends.cpu.rows import NormInput, Term, row_pass
from l2c_rt.backends.options import Options
from l2c_rt.backends.token_scores import scored_attention
from l2c_rt.backends.token_states import begin_ages, chosen_tokens, keep_stream, kept_stream
from l2c_rt.memory.mixing import mixed
from l2c_rt.plan.ops import Compute, Plan, Predict, Reuse, ReuseRun, RunFixed, StepPlan
from l2c_rt.plan.stream_ops import KeepStream, RestoreStream
from l2c_rt.plan.tokens import Refresh, Scored


class FusedCpu(OpByOp):
    """Keeps the modulation table and one branch's input between calls."""

    def __init__(
        self,
        model: BoundModel,
        fusable: FusableModel,
        products: Products,
        attention: Attention,
        plan: Plan,
    ) -> None:
        super().__init__(model)
        self._tokens = plan.tokens
        self.fusable, self.products, self.attention = fusable, products, attention
        self._table: ModulationTable | None = None
        if fusable.modulation is not None:
            self._table = ModulationTable(fusable, plan.num_evaluations)
        self._skip_linears = {} if fusable.outer is None else fusable.outer.skip_linears
        self._h: Tensor | None = None
        self._waiting: list[Term] = []

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        refuse_autocast("cpu")
        # Of an evaluation that ended in an error.
        self._waiting.clear()
        if self._table is not None:
            state = evaluation.state
            self._table.begin(state.t, state.y, evaluation.step, evaluation.timesteps)
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
        if self._table is not None:
            self._table.drop()

    def run_fixed(self, op: RunFixed, evaluation: Evaluation) -> None:
        state = evaluation.state
        self._pass(state, None)
        linear = self._skip_linears.get(op.node)
        if linear is None:
            self.model.fixed[op.node](state)
        else:
            both = torch.cat([state.x, state.skips.pop()], dim=-1)
            state.x = self.products(self._narrowed(both), linear).to(both.dtype)

    def compute(self, op: Compute, evaluation: Evaluation) -> None:
        branch, state = self.fusable.branches[op.branch], evaluation.state
        shift, scale, gate = self._modulation(branch)
        h = self._input_like(state.x)
        self._pass(state, NormInput(branch.norm, shift, scale, h))
        slot = None if op.slot is None else evaluation.slots.target(op.slot, h)
        out = run_branch(branch.inner, h, self.products, self.attention, slot)
        self._waiting.append(Term((out,), gate, store=None if out is slot else slot))

    def reuse(self, op: Reuse, evaluation: Evaluation) -> None:
        gate = self._modulation(self.fusable.branches[op.branch])[2]
        self._waiting.append(Term((evaluation.slots.load(op.slot),), gate))

    def predict(self, op: Predict, evaluation: Evaluation) -> None:
        gate = self._modulation(self.fusable.branches[op.branch])[2]
        slots, operands = evaluation.slots, evaluation.operands.get(op.branch)
        kept = tuple(slots.load(slot) for slot in op.slots)
        numbers = evaluation.coefficients[op.at : op.at + len(kept)]
        store = None if op.store is None else slots.load(op.store)
        if operands is not None:
            # What still waits may be kept where this is read.
            self._pass(evaluation.state, None)
            kept, numbers = (mixed(kept, numbers, operands),), ()
        self._waiting.append(Term(kept, gate, numbers, store))

    def reuse_run(self, op: ReuseRun, evaluation: Evaluation) -> None:
        for item in op.items:
            self.ops[type(item)](self, item, evaluation)

    def scored(self, op: Scored, evaluation: Evaluation) -> None:
        assert self._tokens is not None
        branch, state = self.fusable.branches[op.branch], evaluation.state
        assert isinstance(branch.inner, FusableAttention)
        self._pass(state, None)
        h, gate = self._normed(branch, state.x)
        slot = None if op.slot is None else evaluation.slots.target(op.slot, self._narrowed(h))
        heads, scores = scored_attention(branch.inner, h, self._tokens.rule)
        joined = self._narrowed(heads.transpose(1, 2).flatten(2))
        out = self.products(joined, branch.inner.proj, None, slot)
        begin_ages(self._tokens, op, scores, evaluation)
        self._waiting.append(Term((out,), gate, store=None if out is slot else slot))

    def refresh(self, op: Refresh, evaluation: Evaluation) -> None:
        assert self._tokens is not None
        branch, state = self.fusable.branches[op.branch], evaluation.state
        self._pass(state, None)
        out, gate = evaluation.slots.load(op.slot), self._modulation(branch)[2]
        chosen = chosen_tokens(self._tokens, op, evaluation)
        if op.tokens:
            places = chosen.unsqueeze(-1).expand(-1, -1, state.x.shape[-1])
            h = self._narrowed(self._normed(branch, state.x.gather(1, places))[0])
            fresh = run_branch(branch.inner, h, self.products, self.attention, None)
            out.scatter_(1, places, fresh)
        self._waiting.append(Term((out,), gate))

    def keep_stream(self, op: KeepStream, evaluation: Evaluation) -> None:
        self._pass(evaluation.state, None)
        keep_stream(evaluation.slots.values, evaluation.state.x)

    def restore_stream(self, op: RestoreStream, evaluation: Evaluation) -> None:
        # What waits is kept in its slots by this, and its sum is passed over.
        self._pass(evaluation.state, None)
        evaluation.state.x = kept_stream(evaluation.slots.values)

    ops: ClassVar[OpTable] = {
        RunFixed: run_fixed, Compute: compute, Reuse: reuse, Predict: predict, ReuseRun: reuse_run,
        Scored: scored, Refresh: refresh, KeepStream: keep_stream, RestoreStream: restore_stream,
    }  # fmt: skip

    def _normed(self, branch: FusableBranch, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The input of a branch's linears for some tokens, and its gate."""
        norm = branch.norm
        h = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        shift, scale, gate = self._modulation(branch)
        if shift is None or scale is None:
            return h, None
        return torch.addcmul(shift, h, scale + 1, out=h), gate

    def _pass(self, state: State, norm: NormInput | None) -> None:
        """Add what waits to the stream, and give the next branch its input."""
        if norm is None and not self._waiting:
            return
        x = state.x if state.x.is_contiguous() else state.x.contiguous()
        # A long skip holds the same tensor, which stays as it is.
        held = bool(self._waiting and state.skips and state.skips[-1] is state.x)
        state.x = torch.empty_like(x) if held else x
        row_pass(x, state.x, self._waiting, norm)
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

    def _modulation(
        self, branch: FusableBranch
    ) -> tuple[Tensor, Tensor, Tensor] | tuple[None, None, None]:
        """shift, scale, gate of a branch, each [B, 1, D], where it has them."""
        if branch.first is None:
            return None, None, None
        assert self._table is not None
        return self._table.rows(branch.block, branch.first)


def fused_cpu_backend(
    model: BoundModel, options: Options, reasons: tuple[str, ...] = ()
) -> Backend:
    """The fused backend for a described model on a CPU."""
    fusable = model.fusable
    assert fusable is not None
    dtype = None if options.precision is None else torch.bfloat16
    chooser = product_chooser() if options.tune else unmeasured()
    products, attention = Products(chooser, dtype=dtype), Attention(chooser)

    def workspace(plan: Plan) -> FusedCpu:
        return FusedCpu(model, fusable, products, attention, plan)

    return Backend("fused", fused_passes, workspace, reasons, copies=products, dtype=dtype)
