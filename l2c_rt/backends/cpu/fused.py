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
from l2c_rt.backends.cpu.modulation import ModulationTable
from l2c_rt.memory.mixing import mixed
from l2c_rt.plan.ops import Compute, Plan, Predict, Reuse, ReuseRun, RunFixed, StepPlan


class FusedCpu(OpByOp):
    """Keeps the modulation table and one scratch output between calls."""

    def __init__(self, model: BoundModel, fusable: FusableModel, evaluations: int) -> None:
        super().__init__(model)
        self.fusable = fusable
        self._table: ModulationTable | None = None
        if fusable.modulation is not None:
            self._table = ModulationTable(fusable, evaluations)
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
        branch = self.fusable.branches[op.branch]
        x, norm = evaluation.state.x, branch.norm
        h = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        gate = None
        if branch.first is not None:
            shift, scale, gate = self._modulation(branch)
            torch.addcmul(shift, h, scale + 1, out=h)
        out = self._scratch_like(x) if op.slot is None else evaluation.slots.target(op.slot, x)
        run_branch(branch.inner, h, out)
        add(evaluation.state, out, gate)

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
        RunFixed: run_fixed, Compute: compute, Reuse: reuse, Predict: predict, ReuseRun: reuse_run
    }  # fmt: skip

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

    def workspace(plan: Plan) -> FusedCpu:
        return FusedCpu(model, fusable, plan.num_evaluations)

    return Backend("fused", fused_passes, workspace, reasons)


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
    if len(part.inputs) == 1:
        qkv = linear(h, part.inputs[0]).view(b, t, 3, part.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    else:
        q, k, v = (linear(h, m).view(b, t, part.heads, -1).transpose(1, 2) for m in part.inputs)
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
