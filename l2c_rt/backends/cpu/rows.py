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
from l2c_rt.memory.mixing import Operand, mixed
from l2c_rt.plan.ops import Coefficients

NATIVE = (torch.float32, torch.bfloat16)
"""Dtypes of the extension's loops; others take PyTorch's operators."""


class Vector(NamedTuple):
    """What a pass adds or multiplies in all rows: a tensor [D] or [B, 1, D], its address, and the
    elements from batch to batch."""

    tensor: Tensor
    address: int
    stride: int


class Term(NamedTuple):
    """x += gate * value, value = sum of coefficient * source, a row of coefficients for each lane,
    through the operand where there is one; without coefficients one source.

    Shapes: sources and `store`, where the value is kept, [B, T, D]; gate [B, 1, D].
    """

    sources: tuple[Tensor, ...]
    gate: Vector | None = None
    coefficients: Coefficients = ()
    store: Tensor | None = None
    operand: Operand | None = None


class NormInput(NamedTuple):
    """The layer norm before a branch, shift and scale [B, 1, D], and where its rows go; made by
    `norm_input`."""

    norm: nn.LayerNorm
    shift: Vector | None
    scale: Vector | None
    h: Tensor
    learned: tuple[Vector | None, Vector | None]
    """Weight and bias, held so that the addresses are of living memory."""
    arguments: tuple[int, float, int, int, int, int, int]


NO_NORM = (0, 0.0, 0, 0, 0, 0, 0)
NO_OPERAND = (0, 0, 0, 0)
NO_PLACES = (0, 0)


def vector(tensor: Tensor | None) -> Vector | None:
    """A vector for passes, as float32 where the extension's loops read it."""
    if tensor is None:
        return None
    wide = tensor.detach()
    if wide.dtype is not torch.float64:
        wide = wide.float()
    return Vector(wide, wide.data_ptr(), wide.stride(0))


def norm_input(
    norm: nn.LayerNorm, shift: Vector | None, scale: Vector | None, h: Tensor
) -> NormInput:
    """A layer norm with its vectors, good for as long as none of the tensors is replaced."""
    weight, bias = learned = (vector(norm.weight), vector(norm.bias))
    stride = 0 if shift is None else shift.stride
    addresses = (_address(weight), _address(bias), _address(shift), _address(scale))
    arguments = (h.data_ptr(), norm.eps, *addresses, stride)
    return NormInput(norm, shift, scale, h, learned, arguments)


def row_pass(
    x: Tensor,
    out: Tensor,
    terms: Sequence[Term],
    norm: NormInput | None,
    lanes: tuple[int, ...] = (),
) -> None:
    """out = x + the terms' sum, which may be in place, and norm.h = the norm of it, modulated.

    Sample b of the batch takes row `lanes[b]` of coefficients, or all the first.
    Shapes: x, out, h [B, T, D], contiguous.  Sums are in float32 (float64 for float64).
    """
    values = norm.h.dtype if norm is not None else _dtype_of(terms, x)
    if _is_native(x, values, terms):
        _native_pass(x, out, terms, norm, values, lanes)
    else:
        _plain_pass(x, out, terms, norm, lanes)


def norm_some(x: Tensor, places: Tensor, norm: NormInput, h: Tensor) -> None:
    """h = the norm of the rows at `places`, modulated; the norm's own rows are not written.

    Shapes: x [B, T, D], contiguous; places int64 [B, k]; h [B, k, D], at the address of norm.h.
    """
    if not _is_native(x, h.dtype, ()):
        some = x.gather(1, places.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        _plain_pass(some, some, (), norm._replace(h=h), ())
        return
    batch, count = places.shape
    native_row_pass(
        (x.data_ptr(), x.data_ptr()),
        (x.dtype is torch.bfloat16, h.dtype is torch.bfloat16),
        (batch * count, count, x.shape[2]),
        [],
        norm.arguments,
        (places.data_ptr(), x.shape[1]),
        torch.get_num_threads(),
    )


def _dtype_of(terms: Sequence[Term], x: Tensor) -> torch.dtype:
    return terms[0].sources[0].dtype if terms else x.dtype


def _is_native(x: Tensor, values: torch.dtype, terms: Sequence[Term]) -> bool:
    dtype = x.dtype
    if dtype not in NATIVE or not x.is_cpu:
        return False
    if dtype is not values and not (dtype is torch.float32 and values is torch.bfloat16):
        return False
    for term in terms:
        for source in term.sources:
            if source.dtype is not values:
                return False
        if term.operand is not None and not _has_rows(term.operand, x.shape[1:]):
            return False
    return True


def _has_rows(operand: Operand, shape: torch.Size) -> bool:
    """Whether the extension reads an operand: float32 rows for the tokens, or one for all."""
    for part in operand[:2]:
        if part is not None and (
            part.dtype is not torch.float32
            or part.shape not in (shape, shape[1:])
            or not part.is_contiguous()
        ):
            return False
    return True


def _native_pass(
    x: Tensor,
    out: Tensor,
    terms: Sequence[Term],
    norm: NormInput | None,
    values: torch.dtype,
    lanes: tuple[int, ...],
) -> None:
    batch, tokens, width = x.shape
    address, count = x.data_ptr(), 1 + max(lanes, default=0)
    native_row_pass(
        (address, address if out is x else out.data_ptr()),
        (x.dtype is torch.bfloat16, values is torch.bfloat16),
        (batch * tokens, tokens, width),
        [_arguments(term, count, width) for term in terms],
        NO_NORM if norm is None else norm.arguments,
        NO_PLACES,
        torch.get_num_threads(),
        lanes,
    )


def _arguments(
    term: Term, lanes: int, width: int
) -> tuple[list[int], list[float], int, int, int, tuple[int, int, int, int]]:
    sources, gate, coefficients, store, operand = term
    return (
        [source.data_ptr() for source in sources],
        [number for row in coefficients[:lanes] for number in row],
        0 if gate is None else gate.address,
        0 if gate is None else gate.stride,
        0 if store is None else store.data_ptr(),
        NO_OPERAND
        if operand is None
        else (*_rows(operand.scale, width), *_rows(operand.shift, width)),
    )


def _rows(part: Tensor | None, width: int) -> tuple[int, int]:
    """Where an operand's part is, and the elements from token to token."""
    return (0, 0) if part is None else (part.data_ptr(), width if part.dim() == 2 else 0)


def _address(vector: Vector | None) -> int:
    return 0 if vector is None else vector.address


def _plain_pass(
    x: Tensor,
    out: Tensor,
    terms: Sequence[Term],
    norm: NormInput | None,
    lanes: tuple[int, ...],
) -> None:
    total = x
    for term in terms:
        value = term.sources[0]
        if term.coefficients:
            value = mixed(term.sources, term.coefficients, term.operand, lanes)
        if term.store is not None:
            term.store.copy_(value)
        value = value.to(x.dtype)
        if term.gate is None:
            total = torch.add(total, value, out=out)
        else:
            total = torch.addcmul(total, term.gate.tensor.to(x.dtype), value, out=out)
    if total is x and out is not x:
        out.copy_(x)
    if norm is None:
        return
    layer = norm.norm
    h = F.layer_norm(out, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    if norm.scale is not None and norm.shift is not None:
        h = torch.addcmul(norm.shift.tensor.to(h.dtype), h, norm.scale.tensor.to(h.dtype) + 1)
    norm.h.copy_(h)
