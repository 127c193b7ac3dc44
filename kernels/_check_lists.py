"""Checks of lists of slots and of what belongs to them, before anything is launched."""

from __future__ import annotations

from torch import Tensor

from l2c_rt.kernels import _check
from l2c_rt.kernels._check import Shape
from l2c_rt.kernels.operands import OperandBank, Reuses, Weights


def reuses(op: str, got: Reuses, x_shape: Shape, like: Tensor, *, gated: bool) -> None:
    """The arena, whose slots are contiguous and shaped like x, tokens flat or not; its lists."""
    b, t, d = x_shape
    arena = got.arena
    _check.kind(op, "arena", arena, like, _check.FLOATS)
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
        weights(op, got.weights, len(got.slots), like)


def weights(op: str, got: Weights, count: int, like: Tensor) -> None:
    """The table of factors and its columns, one for each of `count` slots."""
    _check.tensor(op, "weights.table", got.table, (-1, -1), like, _check.FLOAT32)
    _check.tensor(op, "weights.columns", got.columns, (count,), like, _check.INT32)
    _check.counter(op, got.counter, like)


def operand(
    op: str, got: OperandBank, row_shape: tuple[int, int], weights: Weights, like: Tensor
) -> None:
    """The bank of tensors and its index, with an entry for every factor."""
    _check.tensor(op, "operand.bank", got.bank, (-1, *row_shape), like, _check.FLOAT32)
    steps, columns = weights.table.shape
    _check.tensor(op, "operand.index", got.index, (steps, columns, 2), like, _check.INT32)
    if not 0 <= got.column < columns:
        raise ValueError(f"{op}: column {got.column} is outside the table's {columns} columns")
