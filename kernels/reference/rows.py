"""The kernels that run down the rows of the residual stream."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_rt.kernels._launch import RowTile
from l2c_rt.kernels.operands import Modulation, OperandBank, Reuses, Rows
from l2c_rt.kernels.reference._outputs import into, into_both, into_rows
from l2c_rt.kernels.reference.products import split_sum


def norm_modulate(
    x: Tensor,
    modulation: Modulation,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: Rows | None = None,
    tile: RowTile | None = None,
) -> Rows:
    return into_rows(out, modulated(x, modulation, shift, scale, eps), modulation.table.dtype)


def reuse_sum(
    x: Tensor,
    reuses: Reuses,
    modulation: Modulation,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    total = x
    assert reuses.gates is not None
    listed = zip(reuses.slots.tolist(), reuses.gates.tolist(), reuses.factors(), strict=True)
    for slot, gate, factor in listed:
        total = total + factor * modulation.chunk(gate)[:, None] * reuses.output(slot, x)
    return into(out, total.to(x.dtype))


def reuse_run(
    x: Tensor,
    reuses: Reuses,
    modulation: Modulation,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: tuple[Tensor, Rows] | None = None,
    tile: RowTile | None = None,
) -> tuple[Tensor, Rows]:
    total = reuse_sum(x, reuses, modulation)
    h = modulated(total, modulation, shift, scale, eps).to(reuses.arena.dtype)
    return into_both(out, total, h)


def gate_residual(
    x: Tensor,
    y: Tensor,
    modulation: Modulation,
    gate: int,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    return into(out, (x + modulation.chunk(gate)[:, None] * y).to(x.dtype))


def gate_residual_norm_modulate(
    x: Tensor,
    y: Tensor,
    modulation: Modulation,
    gate: int,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: tuple[Tensor, Rows] | None = None,
    tile: RowTile | None = None,
    places: Tensor | None = None,
) -> tuple[Tensor, Rows]:
    total = gate_residual(x, _of_batch(y, places), modulation, gate)
    h = modulated(total, modulation, shift, scale, eps).to(y.dtype)
    return into_both(out, total, h)


def split_gate_residual_norm_modulate(
    x: Tensor,
    partial_sums: Tensor,
    y: Tensor,
    modulation: Modulation,
    gate: int,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: tuple[Tensor, Rows] | None = None,
    tile: RowTile | None = None,
    places: Tensor | None = None,
) -> tuple[Tensor, Rows]:
    split_sum(partial_sums, y, places=places)
    return gate_residual_norm_modulate(
        x, y, modulation, gate, shift, scale, eps, out, places=places
    )  # fmt: skip


def norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    out: Rows | None = None,
    tile: RowTile | None = None,
) -> Rows:
    return into_rows(out, normalised(x, weight, bias, eps), weight.dtype)


def ungated_reuse_sum(
    x: Tensor,
    reuses: Reuses,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    total = x
    for slot, factor in zip(reuses.slots.tolist(), reuses.factors(), strict=True):
        total = total + factor * reuses.output(slot, x)
    return into(out, total.to(x.dtype))


def mix(
    reuses: Reuses,
    out: Tensor,
    operand: OperandBank | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    assert reuses.weights is not None
    places = reuses.places
    at = slice(None) if places is None else places[:, 0].long()
    total = ungated_reuse_sum(torch.zeros_like(out[at]), reuses)
    if operand is not None:
        scale, shift = operand.now(reuses.weights.counter, places)
        total = total * (1 + scale) + shift
    out[at] = total.to(out.dtype)
    return out


def reuse_run_norm(
    x: Tensor,
    reuses: Reuses,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    out: tuple[Tensor, Rows] | None = None,
    tile: RowTile | None = None,
) -> tuple[Tensor, Rows]:
    total = ungated_reuse_sum(x, reuses)
    return into_both(out, total, normalised(total, weight, bias, eps).to(reuses.arena.dtype))


def residual_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    out: tuple[Tensor, Rows] | None = None,
    tile: RowTile | None = None,
    places: Tensor | None = None,
) -> tuple[Tensor, Rows]:
    total = (x + _of_batch(y, places)).to(x.dtype)
    return into_both(out, total, normalised(total, weight, bias, eps).to(y.dtype))


def split_residual_norm(
    x: Tensor,
    partial_sums: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    out: tuple[Tensor, Rows] | None = None,
    tile: RowTile | None = None,
    places: Tensor | None = None,
) -> tuple[Tensor, Rows]:
    split_sum(partial_sums, y, places=places)
    return residual_norm(x, y, weight, bias, eps, out, places=places)


def _of_batch(y: Tensor, places: Tensor | None) -> Tensor:
    return y if places is None else y[places[:, 0].long()]


def modulated(x: Tensor, modulation: Modulation, shift: int, scale: int, eps: float) -> Tensor:
    """LayerNorm, shift and scale, in the widest dtype of both."""
    shifts, scales = modulation.chunk(shift)[:, None], modulation.chunk(scale)[:, None]
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scales) + shifts


def normalised(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm with weight and bias, in the widest dtype of both."""
    wide = torch.promote_types(x.dtype, weight.dtype)
    return F.layer_norm(x.to(wide), x.shape[-1:], weight.to(wide), bias.to(wide), eps)
