"""Checks of slots, lists of them and what belongs to them, before anything is launched."""

from __future__ import annotations

import torch
from torch import Tensor

from l2c_rt.kernels import _check
from l2c_rt.kernels._check import Shape
from l2c_rt.kernels.operands import OperandBank, Reuses, Weights


def reuses(op: str, got: Reuses, x_shape: Shape, like: Tensor, *, gated: bool) -> None:
    """The arena, whose slots are contiguous and shaped like x, tokens flat or not; its lists."""
    b, t, d = x_shape
    arena = got.arena
    _check.kind(op, "arena", arena, like, _check.FLOATS)
    if got.places is not None:
        places(op, got.places, like, b)
        b = arena.shape[1] if arena.dim() == 4 else b
    if tuple(arena.shape[1:]) not in ((b, t, d), (b * t, d)):
        raise ValueError(
            f"{op}: arena has shape {tuple(arena.shape)}, wanted slots of {(b, t, d)} or "
            f"{(b * t, d)}"
        )
    if len(arena) and not arena[0].is_contiguous():
        raise ValueError(f"{op}: arena has strides {arena.stride()}, wanted contiguous slots")
    if arena.stride(0) % 8:
        raise ValueError(
            f"{op}: slots of the arena are {arena.stride(0)} elements apart, wanted a multiple of 8"
        )
    _check.aligned(op, "arena", arena)
    _check.tensor(op, "slots", got.slots, (-1,), like, _check.INT32)
    if gated and got.gates is None:
        raise ValueError(f"{op}: reuses have no gates; pass one chunk number per slot")
    if got.gates is not None:
        _check.tensor(op, "gates", got.gates, tuple(got.slots.shape), like, _check.INT32)
    if got.weights is not None:
        weights(op, got.weights, len(got.slots), like, x_shape[0])


def weights(op: str, got: Weights, count: int, like: Tensor, batch: int) -> None:
    """The table of factors and its columns, one for each of `count` slots; offsets of images."""
    _check.tensor(op, "weights.table", got.table, (-1, -1), like, _check.FLOAT32)
    _check.tensor(op, "weights.columns", got.columns, (count,), like, _check.INT32)
    _check.counter(op, got.counter, like)
    if got.offsets is not None:
        _check.tensor(op, "weights.offsets", got.offsets, (batch,), like, _check.INT32)


def operand(
    op: str, got: OperandBank, row_shape: tuple[int, int], weights: Weights, like: Tensor
) -> None:
    """The bank of tensors and its index, with an entry for every factor."""
    _check.tensor(op, "operand.bank", got.bank, (-1, *row_shape), like, _check.FLOAT32)
    steps, columns = weights.table.shape
    _check.tensor(op, "operand.index", got.index, (steps, columns, 2), like, _check.INT32)
    if not 0 <= got.column < columns:
        raise ValueError(f"{op}: column {got.column} is outside the table's {columns} columns")


def kept(op: str, name: str, got: Tensor, x: Tensor, placed: Tensor | None) -> None:
    """A slot: shaped like x, or with places of any number of images."""
    b, t, d = x.shape
    _check.tensor(op, name, got, (b if placed is None else -1, t, d), x)
    if placed is not None:
        places(op, placed, x, b)


def places(op: str, got: Tensor, like: Tensor, batch: int) -> None:
    """Where the slots of each image of a batch are, and which evaluation it is at."""
    _check.tensor(op, "places", got, (batch, 2), like, _check.INT32)


def partial_sums(
    op: str, got: Tensor, like: Tensor, dtype: torch.dtype, rows: int | None = None
) -> None:  # fmt: skip
    """What `split_linear` leaves of rows like these: at least one float32 tensor, or one in the
    dtype of their sum."""
    d = like.shape[-1]
    rows = like.numel() // d if rows is None else rows
    _check.tensor(op, "partial_sums", got, (-1, rows, d), like, (torch.float32, dtype))
    if got.dtype != torch.float32 and len(got) > 1:
        raise ValueError(f"{op}: {len(got)} partial_sums are {got.dtype}, wanted torch.float32")
    if not len(got):
        raise ValueError(f"{op}: partial_sums is empty, wanted at least one to sum")
