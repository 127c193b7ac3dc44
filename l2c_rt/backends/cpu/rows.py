"""One pass over the rows of the residual stream: what branches gave is added and kept, and the
next branch's input is normalised, while a row is in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2c_rt._C import row_pass as native_row_pass
from l2c_rt.memory.mixing import mixed

NATIVE = (torch.float32, torch.bfloat16)
"""Dtypes of the extension's loops; others take PyTorch's operators."""


class Term(NamedTuple):
    """x += gate * value, value = sum of coefficient * source; without coefficients one source.

    Shapes: sources and `store`, where the value is kept, [B, T, D]; gate [B, 1, D].
    """

    sources: tuple[Tensor, ...]
    gate: Tensor | None = None
    coefficients: tuple[float, ...] = ()
    store: Tensor | None = None


class NormInput(NamedTuple):
    """The layer norm before a branch, shift and scale [B, 1, D], and where its rows go."""

    norm: nn.LayerNorm
    shift: Tensor | None
    scale: Tensor | None
    h: Tensor


def row_pass(x: Tensor, out: Tensor, terms: Sequence[Term], norm: NormInput | None) -> None:
    """out = x + the terms' sum, which may be in place, and norm.h = the norm of it, modulated.

    Shapes: x, out, h [B, T, D], contiguous.  Sums are in float32 (float64 for float64).
    """
    values = norm.h.dtype if norm is not None else _dtype_of(terms, x)
    if _is_native(x, values, terms):
        _native_pass(x, out, terms, norm, values)
    else:
        _plain_pass(x, out, terms, norm)


def _dtype_of(terms: Sequence[Term], x: Tensor) -> torch.dtype:
    return terms[0].sources[0].dtype if terms else x.dtype


def _is_native(x: Tensor, values: torch.dtype, terms: Sequence[Term]) -> bool:
    return (
        x.is_cpu
        and (x.dtype is values or (x.dtype is torch.float32 and values is torch.bfloat16))
        and x.dtype in NATIVE
        and all(source.dtype is values for term in terms for source in term.sources)
    )


def _native_pass(
    x: Tensor, out: Tensor, terms: Sequence[Term], norm: NormInput | None, values: torch.dtype
) -> None:
    batch, tokens, width = x.shape
    # They live until the call has returned: gates and norms of a narrow model are widened here.
    wide: list[Tensor] = []
    rows = [
        (
            [source.data_ptr() for source in term.sources],
            term.coefficients,
            *_strided(term.gate, wide),
            0 if term.store is None else term.store.data_ptr(),
        )
        for term in terms
    ]
    native_row_pass(
        (x.data_ptr(), out.data_ptr()),
        (x.dtype is torch.bfloat16, values is torch.bfloat16),
        (batch * tokens, tokens, width),
        rows,
        (0, 0.0, 0, 0, 0, 0, 0) if norm is None else _norm_arguments(norm, wide),
        torch.get_num_threads(),
    )


def _norm_arguments(
    norm: NormInput, wide: list[Tensor]
) -> tuple[int, float, int, int, int, int, int]:
    layer = norm.norm
    weight, bias = _strided(layer.weight, wide)[0], _strided(layer.bias, wide)[0]
    shift, stride = _strided(norm.shift, wide)
    scale, _ = _strided(norm.scale, wide)
    return norm.h.data_ptr(), layer.eps, weight, bias, shift, scale, stride


def _strided(tensor: Tensor | None, wide: list[Tensor]) -> tuple[int, int]:
    """Address of a float32 vector [D], or of [B, 1, D] with the stride of its batches."""
    if tensor is None:
        return 0, 0
    if tensor.dtype is not torch.float32:
        tensor = tensor.float()
        wide.append(tensor)
    return tensor.data_ptr(), tensor.stride(0)


def _plain_pass(x: Tensor, out: Tensor, terms: Sequence[Term], norm: NormInput | None) -> None:
    total = x
    for term in terms:
        value = term.sources[0]
        if term.coefficients:
            value = mixed(term.sources, term.coefficients)
        if term.store is not None:
            term.store.copy_(value)
        value = value.to(x.dtype)
        if term.gate is None:
            total = torch.add(total, value, out=out)
        else:
            total = torch.addcmul(total, term.gate.to(x.dtype), value, out=out)
    if total is x and out is not x:
        out.copy_(x)
    if norm is None:
        return
    layer = norm.norm
    h = F.layer_norm(out, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    if norm.scale is not None and norm.shift is not None:
        h = torch.addcmul(norm.shift.to(h.dtype), h, norm.scale.to(h.dtype) + 1, out=h)
    norm.h.copy_(h)
