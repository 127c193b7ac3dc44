"""The fused backend on a CPU: modulation tabulated per run, outputs written straight to their slot,
reuses accumulated in place.

Equal to the reference up to rounding; no temporary of the size of x beyond what the linears need.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2c_rt.adapters.bound_model import (
    BoundModel,
    FusableAttention,
    FusableBranch,
    FusableMlp,
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
from l2c_rt.backends.cpu.sampled_modulation import table_for
from l2c_rt.backends.token_scores import heads_of, scored_attention
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
    """Keeps the modulation table and one scratch output between calls.

    With `requests`, which may run at once, every sample of an evaluation is at a step of its own.
    """

    def __init__(
        self, model: BoundModel, fusable: FusableModel, plan: Plan, requests: int | None = None
    ) -> None:
        super().__init__(model)
        self.fusable = fusable
        self._tokens = plan.tokens
        self._table = table_for(fusable, plan.num_evaluations, requests)
        self._scratch: Tensor | None = None

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        refuse_autocast("cpu")
        if self._table is not None:
            state = evaluation.state
            self._table.begin(state.t, state.y, evaluation.step, evaluation.timesteps)
        return super().evaluate(step, evaluation)

    @property
    def nbytes(self) -> int:
        return 0 if self._table is None else self._table.nbytes

    def drop_tables(self) -> None:
        if self._table is not None:
            self._table.drop()

    def run_fixed(self, op: RunFixed, evaluation: Evaluation) -> None:
        self.model.fixed[op.node](evaluation.state)

    def compute(self, op: Compute, evaluation: Evaluation) -> None:
        branch, x = self.fusable.branches[op.branch], evaluation.state.x
        h, gate = self._normed(branch, x)
        out = self._scratch_like(x) if op.slot is None else evaluation.slots.target(op.slot, x)
        run_branch(branch.inner, h, out)
        add(evaluation.state, out, gate)

    def scored(self, op: Scored, evaluation: Evaluation) -> None:
        assert self._tokens is not None
        branch, x = self.fusable.branches[op.branch], evaluation.state.x
        assert isinstance(branch.inner, FusableAttention)
        h, gate = self._normed(branch, x)
        out = self._scratch_like(x) if op.slot is None else evaluation.slots.target(op.slot, x)
        mixed, scores = scored_attention(branch.inner, h, self._tokens.rule)
        linear_into(mixed.transpose(1, 2).flatten(2).flatten(0, 1), branch.inner.proj, out)
        begin_ages(self._tokens, op, scores, evaluation)
        add(evaluation.state, out, gate)

    def refresh(self, op: Refresh, evaluation: Evaluation) -> None:
        assert self._tokens is not None
        branch, x = self.fusable.branches[op.branch], evaluation.state.x
        out = evaluation.slots.load(op.slot)
        chosen = chosen_tokens(self._tokens, op, evaluation)
        gate = None if branch.first is None else self._modulation(branch)[2]
        if op.tokens:
            places = chosen.unsqueeze(-1).expand(-1, -1, x.shape[-1])
            h, gate = self._normed(branch, x.gather(1, places))
            fresh = torch.empty_like(h)
            run_branch(branch.inner, h, fresh)
            out.scatter_(1, places, fresh)
        add(evaluation.state, out, gate)

    def keep_stream(self, op: KeepStream, evaluation: Evaluation) -> None:
        keep_stream(evaluation.slots.values, evaluation.state.x)

    def restore_stream(self, op: RestoreStream, evaluation: Evaluation) -> None:
        evaluation.state.x = kept_stream(evaluation.slots.values)

    def reuse(self, op: Reuse, evaluation: Evaluation) -> None:
        branch = self.fusable.branches[op.branch]
        gate = None if branch.first is None else self._modulation(branch)[2]
        add(evaluation.state, evaluation.slots.load(op.slot), gate)

    def predict(self, op: Predict, evaluation: Evaluation) -> None:
        branch = self.fusable.branches[op.branch]
        kept = [evaluation.slots.load(slot) for slot in op.slots]
        numbers = evaluation.coefficients[op.at : op.at + len(kept)]
        out = mixed(kept, numbers, evaluation.operands.get(op.branch))
        if op.store is not None:
            evaluation.slots.store(op.store, out)
        gate = None if branch.first is None else self._modulation(branch)[2]
        add(evaluation.state, out, gate)

    def reuse_run(self, op: ReuseRun, evaluation: Evaluation) -> None:
        for item in op.items:
            self.ops[type(item)](self, item, evaluation)

    ops: ClassVar[OpTable] = {
        RunFixed: run_fixed, Compute: compute, Reuse: reuse, Predict: predict,
        ReuseRun: reuse_run,
        Scored: scored, Refresh: refresh, KeepStream: keep_stream, RestoreStream: restore_stream,
    }  # fmt: skip

    def _normed(self, branch: FusableBranch, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The input of a branch's linears, and its gate."""
        norm = branch.norm
        h = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        if branch.first is None:
            return h, None
        shift, scale, gate = self._modulation(branch)
        return torch.addcmul(shift, h, scale + 1, out=h), gate

    def _scratch_like(self, x: Tensor) -> Tensor:
        scratch = self._scratch
        if scratch is None or scratch.shape != x.shape or scratch.dtype != x.dtype:
            scratch = torch.empty_like(x, memory_format=torch.contiguous_format)
            self._scratch = scratch
        return scratch

    def _modulation(self, branch: FusableBranch) -> tuple[Tensor, Tensor, Tensor]:
        """shift, scale, gate of a branch, each [B, 1, D]."""
        assert self._table is not None
        assert branch.first is not None
        return self._table.rows(branch.block, branch.first)


def fused_cpu_backend(model: BoundModel, reasons: tuple[str, ...] = ()) -> Backend:
    """The fused backend for a described model on a CPU."""
    fusable = model.fusable
    assert fusable is not None

    def workspace(plan: Plan, requests: int | None = None) -> FusedCpu:
        return FusedCpu(model, fusable, plan, requests)

    return Backend("fused", fused_passes, workspace, reasons, batched=workspace)


def custom_forward(fusable: FusableModel) -> str:
    """Why some branch is more than its linears, or nothing: tried once per class of module.

    A class of somebody else's may have our names and another forward.
    """
    tried: set[type] = set()
    for name, branch in fusable.branches.items():
        kind = type(branch.module)
        if kind in tried:
            continue
        tried.add(kind)
        weight = branch.norm.weight if branch.norm.weight is not None else _last(branch).weight
        width = branch.norm.normalized_shape[0]
        plain = torch.autocast(weight.device.type, enabled=False)
        # Made inside: a tensor of the user's inference mode is not written to outside of it.
        with torch.inference_mode(False), torch.no_grad(), plain:
            rows = torch.arange(4 * width, dtype=torch.float32, device=weight.device)
            h = torch.sin(rows).view(1, 4, width).to(weight.dtype)
            out = torch.empty_like(h)
            run_branch(branch.inner, h.clone(), out)
            expected = branch.module(h)
        close = 1e-4 if weight.dtype in (torch.float32, torch.float64) else 3e-2
        if not torch.allclose(out, expected, rtol=close, atol=close):
            return f"{name}: {kind.__name__} computes something else than its linears do"
    return ""


def _last(branch: FusableBranch) -> nn.Linear:
    return branch.inner.proj if isinstance(branch.inner, FusableAttention) else branch.inner.fc2


def add(state: State, out: Tensor, gate: Tensor | None) -> None:
    """x += gate * out, in place unless a long skip holds the same tensor."""
    if state.skips and state.skips[-1] is state.x:
        state.x = state.x + out if gate is None else torch.addcmul(state.x, gate, out)
    elif gate is None:
        state.x.add_(out)
    else:
        state.x.addcmul_(gate, out)


def run_branch(inner: FusableAttention | FusableMlp, h: Tensor, out: Tensor) -> None:
    """A branch's linears, written to `out`.  Shapes: h, out [B, T, D]."""
    if isinstance(inner, FusableAttention):
        attention(inner, h, out)
    else:
        mlp(inner, h, out)


def attention(part: FusableAttention, h: Tensor, out: Tensor) -> None:
    b, t, _ = h.shape
    q, k, v = heads_of(part, h)
    mixed = F.scaled_dot_product_attention(q, k, v, scale=part.scale)
    linear_into(mixed.transpose(1, 2).reshape(b * t, -1), part.proj, out)


def mlp(part: FusableMlp, h: Tensor, out: Tensor) -> None:
    hidden = linear(h, part.fc1)
    torch.ops.aten.gelu_(hidden, approximate=part.gelu)
    linear_into(hidden.flatten(0, 1), part.fc2, out)


def linear(h: Tensor, module: nn.Linear) -> Tensor:
    return F.linear(h, module.weight, module.bias)


def linear_into(h: Tensor, module: nn.Linear, out: Tensor) -> None:
    """The linear's output, written to `out` without a copy.  Shapes: h [B T, D'], out [B, T, D]."""
    rows: Any = out.view(-1, out.shape[-1])
    if module.bias is None:
        torch.mm(h, module.weight.t(), out=rows)
    else:
        torch.addmm(module.bias, h, module.weight.t(), out=rows)
