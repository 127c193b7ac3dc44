"""Weighted sums of kept outputs: what a prediction is made of."""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Rounding(NamedTuple):
    """The type that differences are rounded to, and the evaluations of the values and of what they
    predict, counted from that."""

    dtype: torch.dtype
    evaluations: tuple[int, ...]


class Operand(NamedTuple):
    """What a corrector multiplies a predicted value by, less one, and what it adds; both broadcast
    to the value.  With `rounding` the value is a Taylor series of rounded differences."""

    scale: Tensor | None = None
    shift: Tensor | None = None
    rounding: Rounding | None = None


Row = Sequence[float | Tensor]
"""The coefficients of a sum; those that are tensors have no dimensions."""


def mixed(
    values: Sequence[Tensor],
    coefficients: Sequence[Row],
    operand: Operand | None = None,
    lanes: Sequence[int] = (),
) -> Tensor:
    """The sum of coefficients times values, then times `1 + scale`, plus `shift`; a new tensor.

    Sample b of the batch has row `lanes[b]` of the coefficients, or all samples the first one; in
    values of which no equal part belongs to each sample all have that of the first sample.
    Summed in float32 where the values are in half precision, since neighbouring differences of
    high order cancel, and in the order given.  Shapes: values all alike, and the result.
    """
    blocks = lane_blocks(values[0], lanes)
    if len(blocks) == 1:
        return _mixed(values, coefficients[blocks[0].lane], operand)
    return torch.cat([
        _mixed([value[rows] for value in values], coefficients[lane], operand)
        for lane, rows in blocks
    ])  # fmt: skip


class Block(NamedTuple):
    """Neighbouring rows of a value that are in one lane."""

    lane: int
    rows: slice


def lane_blocks(value: Tensor, lanes: Sequence[int]) -> list[Block]:
    """The blocks of a value whose batch has samples in these lanes; see `mixed`."""
    rows = len(value) if value.dim() else 1
    if len(set(lanes)) < 2 or rows % len(lanes):
        return [Block(lanes[0] if lanes else 0, slice(0, rows))]
    size, count = rows // len(lanes), len(lanes)
    starts = [b for b in range(count) if b == 0 or lanes[b] != lanes[b - 1]]
    stops = [*starts[1:], count]
    return [Block(lanes[b], slice(b * size, stop * size))
            for b, stop in zip(starts, stops, strict=True)]  # fmt: skip


def _mixed(values: Sequence[Tensor], coefficients: Row, operand: Operand | None) -> Tensor:
    if operand is not None and operand.rounding is not None:
        return _taylor(values, operand.rounding)
    first = values[0]
    wide = first.dtype if first.dtype.itemsize >= 4 else torch.float32
    total = first.to(wide) * coefficients[0]
    for value, coefficient in zip(values[1:], coefficients[1:], strict=True):
        if isinstance(coefficient, Tensor):
            total.addcmul_(value.to(wide), coefficient)
        else:
            total.add_(value.to(wide), alpha=coefficient)
    if operand is not None:
        if operand.scale is not None:
            total.addcmul_(total, operand.scale.to(total))
        if operand.shift is not None:
            total.add_(operand.shift.to(total))
    return total.to(first.dtype)


def _taylor(values: Sequence[Tensor], rounding: Rounding) -> Tensor:
    """The Taylor series of the newest value's differences, each from an older one that is rounded.

    In the values' own type; a difference is over the distance of the two newest evaluations.
    """
    *computed, predicted = rounding.evaluations
    older: list[Tensor] = []
    for i, value in enumerate(values):
        newest = [value]
        for before in older:
            distance = computed[i] - computed[i - 1]
            newest.append((newest[-1] - before.to(value.dtype)) / distance)
        older = [difference.to(rounding.dtype) for difference in newest]
    total, distance = torch.zeros_like(values[-1]), predicted - computed[-1]
    for order, difference in enumerate(older):
        total = total + difference.to(total.dtype) * (distance**order / factorial(order))
    return total


def mixed_values(
    values: Sequence[Any],
    coefficients: Sequence[Row],
    operand: Operand | None = None,
    lanes: Sequence[int] = (),
) -> Any:
    """The same of outputs that are tensors, or tuples and lists of them, part by part.

    What is no tensor of floating point is taken from the last value given.  Raises ValueError for
    an operand of an output of several parts.
    """
    last = values[-1]
    if isinstance(last, tuple | list):
        if operand is not None and operand.rounding is None:
            raise ValueError("a corrector's tensors are for outputs of one tensor, got several")
        columns = zip(*values, strict=True)
        return type(last)(
            [mixed_values(column, coefficients, operand, lanes) for column in columns]
        )
    if isinstance(last, Tensor) and last.dtype.is_floating_point:
        return mixed(values, coefficients, operand, lanes)
    return last
