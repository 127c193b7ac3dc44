"""What depends on (timestep, label) only, for many evaluations at once, where kernels look it up.

A table covers a window of evaluations.  Where all of a run fit the cap there is one window, filled
before the run; otherwise the table is filled again whenever its window is used up.

Rows are not kept from one run to the next by their labels.  The weights may have changed: a write
through `.data` leaves no mark in PyTorch, and to compare the weights is to read them, which is what
the filling takes its time for: with r rows it makes r FLOP for each of their bytes, and an H100 is
bound by reading up to some 200 (DDIM-50 of one image has 100 rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2c_rt.adapters.bound_model import FusableBranch
from l2c_rt.backends.cuda.cuda_parts import FusedModel
from l2c_rt.device.host_tensors import host_tensor
from l2c_rt.kernels.operands import Modulation


def chunk_of(part: FusableBranch, number: int) -> int:
    """The chunk of a branch's shift (0), scale (1) or gate (2)."""
    assert part.first is not None
    return 6 * part.block + part.first + number


class Tables(Protocol):
    """What the launches of an evaluation read of a table."""

    modulation: Modulation
    steps: int


class ModulationTable:
    """Modulation of all blocks and the final norm, or U-ViT's prefix tokens.

    `steps` evaluations of `labels` distinct rows at a time; `rows` int32 [B] says which row an
    image reads.  Shapes: table [steps, labels, C, D], C = 6 per block and 2, or the prefix's E.
    """

    def __init__(self, fused: FusedModel, counter: Tensor, rows: Sequence[int]) -> None:
        fusable, outer, sampling = fused.fusable, fused.outer, fused.model.sampling
        self._fusable, self._outer = fusable, outer
        self._blocks = 1 + max(branch.block for branch in fusable.branches.values())
        self._modulated = fusable.modulation is not None
        width, labels = outer.norm.normalized_shape[0], 1 + max(rows)
        chunks = 6 * self._blocks + 2 if self._modulated else outer.prefix_tokens
        like, device = outer.linear.weight, counter.device
        per_step = labels * chunks * width * like.element_size()
        fitting = fused.options.table_bytes // max(1, per_step)
        self.steps = max(1, min(fused.plan.num_evaluations, fitting))
        table = torch.zeros(self.steps, labels, chunks, width, dtype=like.dtype, device=device)
        index = torch.tensor(rows, dtype=torch.int32, device="cpu").to(device)
        self.modulation = Modulation(table, index, counter)
        self.t = torch.zeros(self.steps, dtype=torch.float32, device=device)
        has_labels = sampling is None or sampling.classes > 0
        self.y = torch.zeros(labels, dtype=torch.int64, device=device) if has_labels else None

    @property
    def nbytes(self) -> int:
        return self.modulation.table.numel() * self.modulation.table.element_size()

    @property
    def final(self) -> int:
        """The chunk of the final norm's shift; its scale follows."""
        return 6 * self._blocks

    def seed(self) -> None:
        """A timestep to check the first step at."""
        self.t.fill_(500.0)

    def of_images(self) -> Tensor | None:
        """The label of every image of the batch."""
        return None if self.y is None else self.y[self.modulation.rows.long()]

    def take(self, t: Sequence[float] | Tensor) -> None:
        """The timesteps of the first evaluations."""
        if isinstance(t, Tensor):
            self.t[: len(t)].copy_(t)
        elif self.t.is_cuda and torch.cuda.is_current_stream_capturing():
            # A user's capture would read the numbers again, in memory that is others' by then.
            for k, value in enumerate(t):
                self.t[k].fill_(value)
        else:
            host = host_tensor(t, self.t.dtype, self.t.device)
            self.t[: len(t)].copy_(host, non_blocking=True)

    def fill(self, count: int) -> None:
        """Fill `count` evaluations from `t` and `y`, and go back to the first; capturable."""
        labels = self.modulation.table.shape[1]
        t = self.t[:count].repeat_interleave(labels)
        y = None if self.y is None else self.y.repeat(count)
        table = self.modulation.table[:count]
        # The published DiT makes its frequencies on the host and moves them, which ends a capture.
        with table.device:
            if self._modulated:
                self._fill_modulation(table.flatten(0, 1), t, y)
            elif self._outer.prefix is not None:
                table.copy_(self._outer.prefix(t, y).view_as(table))
        self.modulation.counter.zero_()

    def _fill_modulation(self, table: Tensor, t: Tensor, y: Tensor | None) -> None:
        fusable, outer = self._fusable, self._outer
        assert fusable.condition is not None
        assert fusable.modulation is not None
        assert outer.modulation is not None
        assert y is not None
        condition = fusable.condition(t, y)
        linears = fusable.modulation_linears
        if linears and all(_fits(linear, table) for linear in linears):
            _fill_at_once(table.flatten(1), condition, linears)
            return
        for block in range(self._blocks):
            rows = fusable.modulation(block, condition).view(len(table), 6, -1)
            table[:, 6 * block : 6 * block + 6].copy_(rows)
        table[:, self.final :].copy_(outer.modulation(condition).view(len(table), 2, -1))


def _fits(linear: nn.Linear, table: Tensor) -> bool:
    return linear.bias is not None and linear.weight.dtype == table.dtype


def _fill_at_once(table: Tensor, condition: Tensor, linears: Sequence[nn.Linear]) -> None:
    """One product per linear, straight into the table, over the biases of all.

    Shapes: table [rows, C D], which the linears' outputs fill side by side.
    """
    activated = F.silu(condition)
    table.copy_(torch.cat([linear.bias.detach() for linear in linears]).expand_as(table))
    first = 0
    for linear in linears:
        part = table[:, first : first + linear.out_features]
        part.addmm_(activated, linear.weight.detach().t())
        first += linear.out_features
