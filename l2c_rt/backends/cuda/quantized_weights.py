"""The branches' weights in e4m3 with a scale per output channel: quantised before every run.

A copy made earlier could be stale, since a write through `.data` leaves no mark in PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from l2c_rt.adapters.bound_model import BoundModel, FusableAttention, FusableBranch, FusableModel

OLDEST_GPU = (8, 9)
MULTIPLE = 16
"""Of a product's columns on either side."""


@dataclass(frozen=True, slots=True)
class QuantizedLinear:
    """One product: its linears' rows one below the other.

    Shapes: values e4m3 [N, K]; scales float32 [N]; bias [N], None without one.
    """

    linears: tuple[nn.Linear, ...]
    values: Tensor
    scales: Tensor
    bias: Tensor | None

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Values and scales."""
        return self.values, self.scales


class QuantizedWeights:
    """Those of both products of every branch: one copy, which all programs of a backend read.

    A run that quantises them anew while another reads them writes what is there already, or, where
    a weight was written to, what that run would have read of the weight itself.
    """

    def __init__(self, fusable: FusableModel) -> None:
        self._of = {
            name: (_room_for(*inputs_of(part)), _room_for(output_of(part)))
            for name, part in fusable.branches.items()
        }

    def of(self, branch: str) -> tuple[QuantizedLinear, QuantizedLinear]:
        """The product that reads a branch's input, and the one that gives its output."""
        return self._of[branch]

    def refresh(self, kernels: Any) -> None:
        """Take the weights as they are now; capturable."""
        for products in self._of.values():
            for product in products:
                _quantize(product, kernels)

    @property
    def nbytes(self) -> int:
        products = [product for pair in self._of.values() for product in pair]
        return sum(p.values.nbytes + p.scales.nbytes for p in products)


def inputs_of(part: FusableBranch) -> tuple[nn.Linear, ...]:
    """The linears that read a branch's input: one, or q, k and v."""
    inner = part.inner
    return tuple(inner.inputs) if isinstance(inner, FusableAttention) else (inner.fc1,)


def output_of(part: FusableBranch) -> nn.Linear:
    """The linear that gives a branch's output."""
    inner = part.inner
    return inner.proj if isinstance(inner, FusableAttention) else inner.fc2


def why_not_quantized(model: BoundModel) -> str:
    """Why the products of a model cannot be in e4m3 here; empty where they can."""
    fusable, device = model.fusable, model.device
    if fusable is None or fusable.outer is None:
        return model.why_not_fusable or "the adapter does not describe the model's ends"
    if device.type != "cuda":
        return f"the model is on {device}, wanted a GPU of compute capability 8.9 or higher"
    have = torch.cuda.get_device_capability(device)
    if have < OLDEST_GPU:
        return f"the GPU has compute capability {have[0]}.{have[1]}, wanted 8.9 or higher"
    return why_not_these_weights(fusable)


def why_not_these_weights(fusable: FusableModel) -> str:
    """What of a model's products e4m3 does not take; empty where it takes all."""
    for name, part in fusable.branches.items():
        for linear in (*inputs_of(part), output_of(part)):
            dtype = linear.weight.dtype
            if dtype != torch.bfloat16:
                kind = str(dtype).removeprefix("torch.")
                return f"the model is {kind}, wanted bfloat16, as in model.to(torch.bfloat16)"
            n, k = linear.weight.shape
            if n % MULTIPLE or k % MULTIPLE:
                return f"{name}: a product of {k} columns to {n}, wanted multiples of {MULTIPLE}"
    return ""


def _quantize(product: QuantizedLinear, kernels: Any) -> None:
    first = 0
    for linear in product.linears:
        rows = slice(first, first + linear.out_features)
        out = product.values[rows], product.scales[rows]
        kernels.quantize_rows(linear.weight.detach(), out=out)
        if product.bias is not None and len(product.linears) > 1:
            product.bias[rows].copy_(linear.bias.detach())
        first = rows.stop


def _room_for(*linears: nn.Linear) -> QuantizedLinear:
    like, bias = linears[0].weight, None if linears[0].bias is None else linears[0].bias.detach()
    n = sum(linear.out_features for linear in linears)
    values = torch.empty(n, like.shape[1], dtype=torch.float8_e4m3fn, device=like.device)
    scales = torch.empty(n, dtype=torch.float32, device=like.device)
    if bias is not None and len(linears) > 1:
        bias = bias.new_empty(n)
    return QuantizedLinear(linears, values, scales, bias)
