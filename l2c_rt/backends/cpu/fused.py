"""The fused backend on a CPU: modulation tabulated per run, outputs written straight to their slot,
reuses accumulated in place.

Equal to the reference up to rounding; no temporary of the size of x beyond what the linears need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2c_rt.adapters.bound_model import (
    FusableAttention,
    FusableBranch,
    FusableMlp,
    FusableModel,
    State,
)
from l2c_rt.backends.backend import Evaluation, OpTable
from l2c_rt.backends.cpu.modulation import ModulationTable
from l2c_rt.plan.ops import Compute, Reuse, ReuseRun, RunFixed
from l2c_rt.runtime.summary import GraphStats


class Workspace:
    """What one lane keeps between calls: the modulation table and one scratch output."""

    def __init__(self, fusable: FusableModel) -> None:
        self.fusable = fusable
        self.table = ModulationTable(fusable) if fusable.modulation is not None else None
        self._scratch: Tensor | None = None

    def begin(self, evaluation: Evaluation, timesteps: Sequence[float] | None) -> None:
        """Make ready for one evaluation of a run with these timesteps, if they are known."""
        if torch.is_autocast_enabled("cpu"):
            raise ValueError(
                "the fused backend does not run under autocast: cast the model, as in "
                'model.to(torch.bfloat16), or compile with backend="reference"'
            )
        evaluation.prepared = self
        if self.table is not None:
            self.table.begin(evaluation.state.t, evaluation.state.y, evaluation.step, timesteps)

    @property
    def nbytes(self) -> int:
        """Memory of the modulation table."""
        return 0 if self.table is None else self.table.nbytes

    @property
    def captured(self) -> GraphStats:
        """Nothing: there are no graphs on a CPU."""
        return GraphStats()

    def forget(self) -> None:
        """Drop what was computed from weights; called before every run, since they may change."""
        if self.table is not None:
            self.table.forget()

    def scratch(self, like: Tensor) -> Tensor:
        kept = self._scratch
        if kept is None or kept.shape != like.shape or kept.dtype != like.dtype:
            self._scratch = kept = torch.empty_like(like, memory_format=torch.contiguous_format)
        return kept

    def rows(self, part: FusableBranch) -> tuple[Tensor, Tensor, Tensor]:
        """shift, scale, gate of a branch, each [B, 1, D]."""
        assert self.table is not None
        assert part.first is not None
        return self.table.rows(part.block, part.first)


def table() -> OpTable:
    """One function per op."""
    return {RunFixed: run_fixed, Compute: compute, Reuse: reuse, ReuseRun: reuse_run}


def custom_forward(fusable: FusableModel) -> str:
    """Why some branch is more than its linears, or nothing: tried once per class of module.

    A class of somebody else's may have our names and another forward.
    """
    tried: set[type] = set()
    for name, part in fusable.branches.items():
        kind = type(part.module)
        if kind in tried:
            continue
        tried.add(kind)
        weight = part.norm.weight if part.norm.weight is not None else _last(part).weight
        width = part.norm.normalized_shape[0]
        h = torch.sin(torch.arange(4.0 * width, device=weight.device)).view(1, 4, width)
        h, out = h.to(weight.dtype), torch.empty(1, 4, width, dtype=weight.dtype)
        plain = torch.autocast(weight.device.type, enabled=False)
        with torch.inference_mode(False), torch.no_grad(), plain:
            branch(part.inner, h.clone(), out)
            whole = part.module(h)
        close = 1e-4 if weight.dtype in (torch.float32, torch.float64) else 3e-2
        if not torch.allclose(out, whole, rtol=close, atol=close):
            return f"{name}: {kind.__name__} computes something else than its linears do"
    return ""


def _last(part: FusableBranch) -> nn.Linear:
    return part.inner.proj if isinstance(part.inner, FusableAttention) else part.inner.fc2


def run_fixed(op: RunFixed, evaluation: Evaluation) -> None:
    evaluation.bound_model.fixed[op.node](evaluation.state)


def compute(op: Compute, evaluation: Evaluation) -> None:
    work: Workspace = evaluation.prepared
    part = work.fusable.branches[op.branch]
    x, norm = evaluation.state.x, part.norm
    h = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    gate = None
    if part.first is not None:
        shift, scale, gate = work.rows(part)
        torch.addcmul(shift, h, scale + 1, out=h)
    out = work.scratch(x) if op.slot is None else evaluation.slots.target(op.slot, x)
    branch(part.inner, h, out)
    add(evaluation.state, out, gate)


def reuse(op: Reuse, evaluation: Evaluation) -> None:
    work: Workspace = evaluation.prepared
    part = work.fusable.branches[op.branch]
    gate = None if part.first is None else work.rows(part)[2]
    add(evaluation.state, evaluation.slots.load(op.slot), gate)


def reuse_run(op: ReuseRun, evaluation: Evaluation) -> None:
    for item in op.items:
        reuse(item, evaluation)


def add(state: State, out: Tensor, gate: Tensor | None) -> None:
    """x += gate * out, in place unless a long skip holds the same tensor."""
    if state.skips and state.skips[-1] is state.x:
        state.x = state.x + out if gate is None else torch.addcmul(state.x, gate, out)
    elif gate is None:
        state.x.add_(out)
    else:
        state.x.addcmul_(gate, out)


def branch(inner: FusableAttention | FusableMlp, h: Tensor, out: Tensor) -> None:
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
