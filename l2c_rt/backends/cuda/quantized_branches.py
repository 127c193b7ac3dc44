"""Branches whose products are in e4m3: `precision="fp8"`.

Every product reads rows with a scale each, and weights with one per output channel, and gives
bf16; slots, attention and what is outside of branches stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import FusableAttention, FusableMlp
from l2c_rt.backends.cuda.branch_launcher import BranchLauncher, BranchOperands
from l2c_rt.backends.cuda.linears import narrowed
from l2c_rt.backends.cuda.quantized_weights import QuantizedLinear, QuantizedWeights
from l2c_rt.kernels.operands import Rows
from l2c_rt.plan.lowering import Embed, Launch, Run

Narrow = tuple[Tensor, Tensor]
"""Values in e4m3 and a scale for each row."""


class QuantizedBranches(BranchLauncher):
    """Runs branches from `input`, values in e4m3 and scales, to slots, by `quantized` weights."""

    def __init__(self, operands: BranchOperands, quantized: QuantizedWeights) -> None:
        super().__init__(operands)
        self._quantized, buffers = quantized, operands.buffers
        rows, width = buffers.h.shape[0] * buffers.h.shape[1], buffers.h.shape[-1]
        self._input = _rows_of(buffers.h, rows, width)
        self._inner = _rows_of(
            buffers.h, rows, max(buffers.mixed.shape[-1], buffers.hidden.shape[-1])
        )

    @property
    def input(self) -> Rows:
        return self._input

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self._input, *self._inner))

    def more_kernels(self, launch: Launch) -> int:
        embeds = isinstance(launch, Embed) and launch.branch is not None
        return int(isinstance(launch, Run) or embeds)

    def take_embedded(self) -> None:
        self._kernels.quantize_rows(self._buffers.h, out=self._input)

    def _attention(self, branch: str, inner: FusableAttention, slot: int) -> None:
        first, last = self._quantized.of(branch)
        qkv, mixed = self._attention_buffers(inner)
        self._product(self._input, first, qkv)
        mixed = self._attend(inner, qkv, mixed)
        self._product(self._narrowed(mixed, None), last, self._output(slot))

    def _mlp(self, branch: str, inner: FusableMlp, slot: int) -> None:
        first, last = self._quantized.of(branch)
        hidden = self._hidden(inner)
        self._product(self._input, first, hidden)
        self._product(
            self._narrowed(hidden, inner.gelu), last, self._output(slot)
        )  # fmt: skip

    def _narrowed(self, x: Tensor, gelu: str | None) -> Narrow:
        values, scales = self._inner
        rows = narrowed(values, x.shape[-1]), scales
        self._kernels.quantize_rows(x, gelu, out=rows)
        return rows

    def _product(self, x: Narrow, weight: QuantizedLinear, out: Tensor) -> None:
        self._kernels.scaled_linear(x, weight.rows, weight.bias, out=out)

    def _add_linear(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is measured: there is one way to compute these products."""


def _rows_of(like: Tensor, rows: int, width: int) -> Narrow:
    shape = (*like.shape[:-1], width)
    values = torch.empty(shape, dtype=torch.float8_e4m3fn, device=like.device)
    return values, torch.empty(rows, dtype=torch.float32, device=like.device)
