"""Branches whose products are in e4m3: `precision="fp8"`.

Every product reads rows with a scale each, and weights with one per output channel, and gives
bf16; slots, attention and what is outside of branches stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import FusableAttention, FusableMlp, FusableModel
from l2c_rt.backends.cuda.branch_launcher import BranchLauncher
from l2c_rt.backends.cuda.buffers import Buffers
from l2c_rt.backends.cuda.linears import Linears
from l2c_rt.backends.cuda.quantized_weights import QuantizedLinear, QuantizedWeights
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.cuda.weight_copies import WeightCopies


class QuantizedBranches(BranchLauncher):
    """Runs branches from `buffers.h` to slots, by `quantized` weights."""

    def __init__(
        self,
        fusable: FusableModel,
        buffers: Buffers,
        weights: WeightCopies,
        kernels: Any,
        tuner: Tuner,
        linears: Linears,
        quantized: QuantizedWeights,
    ) -> None:
        super().__init__(fusable, buffers, weights, kernels, tuner, linears)
        self._quantized = quantized
        widest = max(buffers.h.shape[-1], buffers.mixed.shape[-1], buffers.hidden.shape[-1])
        rows, like = buffers.h.shape[0] * buffers.h.shape[1], buffers.h
        self._values = torch.empty(rows * widest, dtype=torch.float8_e4m3fn, device=like.device)
        self._scales = torch.empty(rows, dtype=torch.float32, device=like.device)

    @property
    def nbytes(self) -> int:
        return self._values.nbytes + self._scales.nbytes

    def _attention(self, branch: str, inner: FusableAttention, slot: int) -> None:
        first, last = self._quantized.of(branch)
        qkv, mixed = self._attention_buffers(inner)
        self._product(self._buffers.h, None, first, qkv)
        self._attend(inner, qkv, mixed)
        self._product(mixed, None, last, self._buffers.memory.slots[slot])

    def _mlp(self, branch: str, inner: FusableMlp, slot: int) -> None:
        first, last = self._quantized.of(branch)
        hidden = self._hidden(inner)
        self._product(self._buffers.h, None, first, hidden)
        self._product(hidden, inner.gelu, last, self._buffers.memory.slots[slot])

    def _product(self, x: Tensor, gelu: str | None, weight: QuantizedLinear, out: Tensor) -> None:
        """Write gelu(x) weight^T + bias to `out`."""
        values = self._values[: x.numel()].view(x.shape)
        self._kernels.quantize_rows(x, gelu, out=(values, self._scales))
        rows = values, self._scales
        self._kernels.scaled_linear(rows, weight.rows, weight.bias, out=out)

    def _add_linear(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is measured: there is one way to compute these products."""
